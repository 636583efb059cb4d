//! Our entry in a list of plugins, and the names that belong to it.

/// `type` of our plugin, which is also the name of its binary.
pub const PLUGIN_TYPE: &str = "netpol-cni";

/// Ending of the copy of an original file. Runtimes do not read files with this ending.
pub const BACKUP_ENDING: &str = ".netpol-backup";

/// The versions of the CNI specification that netpol-cni supports.
pub const SPEC_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Our entry in the list of plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `agentSocket`: the agent's socket, an absolute path on the node.
    pub socket: String,
}
