//! A directory of manifests as a source of objects: [`watch`] reads it after each change, `catalog` computes the changes.

mod catalog;
pub mod watch;
