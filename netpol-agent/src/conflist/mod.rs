//! netpol-cni in the CNI configuration of a node.
//!
//! In: the configuration directory of the container runtime and the directory of CNI plugins. Out: an entry for
//! `netpol-cni` right behind the plugin that creates the interface, in the file that the runtime uses, and the plugin's
//! binary; or both removed again. The steps are a pure function of the directory's content ([`plan`]), so a second run
//! has no steps, and a watch does not react to its own writes.
//! Must not: change a byte of a file that is not ours, except for the one entry.
//!
//! A runtime uses the first file, in byte order of the names, that ends in `.conflist`, `.conf` or `.json`. If that file
//! is invalid, containerd stops and CRI-O tries the next one; so an invalid file is reported, and the first valid file
//! gets the entry. A `.conf` of a single plugin cannot hold a second one: a list is made from it, in a file of ours
//! whose name sorts just before it.
//!
//! Source: CNI specification 1.1.0, "Network configuration format".

mod binary;
mod error;
mod folder;
pub mod plan;
#[cfg(test)]
mod tests;
mod watch;

pub use binary::{Binary, install as install_binary, uninstall as uninstall_binary};
pub use error::Error;
pub use folder::{Report, install, uninstall};
pub use netpol_cni::conflist::{BACKUP_ENDING, Entry, Flaw, PLUGIN_TYPE};
pub use watch::{Event, Options, watch};
