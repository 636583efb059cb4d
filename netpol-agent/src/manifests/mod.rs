//! A directory of manifests as a source of objects: [`watch`] follows it, `catalog` says what changed.

mod catalog;
pub mod watch;
