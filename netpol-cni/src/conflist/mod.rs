//! Our entry in the text of a CNI configuration.
//!
//! In: JSON text. Out: the same text with the entry, or without it. The plugin itself does not use it: `netpol-agent cni install` edits the
//! files of a node, and `kubectl netpol flannel` the configuration that Flannel writes to all nodes.
//! Must not: do IO.

mod entry;
mod flaw;
pub mod text;

pub use entry::{BACKUP_ENDING, Entry, PLUGIN_TYPE, SPEC_VERSIONS};
pub use flaw::Flaw;
pub use text::{Edit, List};
