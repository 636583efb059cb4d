//! Errors in a directory, a configuration or a binary.

use std::io;
use std::path::PathBuf;

use netpol_cni::conflist::Flaw;

/// Why a directory cannot be installed to, or uninstalled from. Each names its path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be listed: it does not exist, or access is denied.
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
    /// The file is not valid for a runtime, or netpol-cni does not support its version.
    #[error("{}", path.display())]
    Flawed {
        /// The file.
        path: PathBuf,
        /// The flaw in its content.
        #[source]
        source: Flaw,
    },
    /// There is no valid configuration to add the entry to.
    #[error("no usable CNI configuration in {}: install a network, such as Flannel, first", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// No agent has served on this node yet, so an entry would keep its pods from starting.
    #[error(
        "netpol-cni is not configured yet, and pods start without policies, because no agent has served on this node"
    )]
    NoAgent {
        /// Why it does not serve.
        #[source]
        source: netpol_cni::client::Error,
    },
    /// Another program changes the file at each attempt.
    #[error("{} keeps changing while it is edited", path.display())]
    Restless {
        /// The directory.
        path: PathBuf,
    },
    /// netpol-cni creates the interface here, so pods would have no network without it.
    #[error("{}: netpol-cni is the main plugin here and is not removed; delete the file to remove it", path.display())]
    Main {
        /// The file.
        path: PathBuf,
    },
    /// Multus uses other plugins for the pods' network than those with our entry.
    #[error("{}: Multus does not run netpol-cni: make {} its default network, or name netpol-cni in its delegates", path.display(), file.display())]
    Multus {
        /// The configuration of Multus.
        path: PathBuf,
        /// The file with our entry.
        file: PathBuf,
    },
    /// The file in the folder of a network is an operator's.
    #[error("{}: names netpol-cni and was not made by netpol-agent cni install; delete the file to remove it", path.display())]
    ByHand {
        /// The file.
        path: PathBuf,
    },
    /// The binary in the plugins' directory is not the one of this installation.
    #[error("{} is not the binary of this installation and is not removed", path.display())]
    Foreign {
        /// The binary.
        path: PathBuf,
    },
}
