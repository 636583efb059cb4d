//! What can be wrong with a configuration, a directory or a binary.

use std::io;
use std::path::PathBuf;

/// Why a directory is not as it should be. Each names the path concerned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be listed: it is not there, or not for us.
    #[error("listing {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be locked against another install or uninstall.
    #[error("locking {}", path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written or replaced.
    #[error("writing {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file cannot be removed.
    #[error("removing {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No runtime could use this file, or we cannot be part of it.
    #[error("{}", path.display())]
    Flawed {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        #[source]
        source: Flaw,
    },
    /// There is no configuration that could get the entry.
    #[error("no usable CNI configuration in {}: install a network, such as Flannel, first", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else writes the file again and again while we do.
    #[error("{} keeps changing while it is edited", path.display())]
    Restless {
        /// The directory.
        path: PathBuf,
    },
    /// Pods get their interface from us here, so taking us out would leave them without a network.
    #[error("{}: netpol-cni is the main plugin here and stays; remove the file to remove it", path.display())]
    Main {
        /// The file.
        path: PathBuf,
    },
    /// The binary in the plugins' directory is not the one that this installation brings.
    #[error("{} is not the binary of this installation and stays", path.display())]
    Foreign {
        /// The binary.
        path: PathBuf,
    },
}

/// What is wrong with the text of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// Not a JSON object.
    #[error("not a valid JSON object")]
    Json(#[source] serde_json::Error),
    /// A field that has to be there is not, or has another type.
    #[error("field `{field}` is missing or not {expected}")]
    Field {
        /// Its path.
        field: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// The list has no plugin that makes an interface.
    #[error("field `plugins` is empty: nothing makes an interface")]
    Empty,
    /// netpol-cni would refuse every pod of this network.
    #[error("field `cniVersion` is `{found}`, netpol-cni speaks {}", super::text::SPEC_VERSIONS.join(", "))]
    Version {
        /// What the file says; empty if nothing.
        found: String,
    },
}
