//! Our place in the CNI configuration of a node.
//!
//! In: the configuration directory of the container runtime and the directory of CNI plugins. Out: an entry for
//! `netpol-cni` right behind the plugin that makes the interface, in the file that the runtime uses, and the plugin's
//! binary; or both gone again. What has to be done is a pure function of the directory's content ([`plan`]), so a
//! second run finds nothing to do and a watch never answers its own writes.
//! Must not: touch a byte of a file that is not ours beyond the one entry.
//!
//! A runtime takes the first file, in byte order of the names, that ends in `.conflist`, `.conf` or `.json`. If it is
//! invalid, containerd stops there and CRI-O goes on to the next; so an invalid file is reported and the first valid
//! one behind it gets the entry. A single plugin's `.conf` cannot hold a second one: a list is made from it, in a file
//! of ours whose name sorts just before.
//!
//! Source: CNI specification 1.1.0, "Network configuration format".

mod binary;
mod error;
mod folder;
pub mod plan;
#[cfg(test)]
mod tests;
mod text;
mod watch;

pub use binary::{Binary, install as install_binary, uninstall as uninstall_binary};
pub use error::{Error, Flaw};
pub use folder::{Report, install, uninstall};
pub use watch::{Event, Options, watch};

/// `type` of our plugin, which is the name of its binary too.
pub const PLUGIN_TYPE: &str = "netpol-cni";

/// What follows the name of a file whose original text is kept. Runtimes do not read files that end so.
pub const BACKUP_ENDING: &str = ".netpol-backup";

/// What we want in the list of plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `agentSocket`: where the agent listens, an absolute path on the node.
    pub socket: String,
}
