//! FLOWS in the kernel: [`netpol_common::flow_table`] in the memory of a map, with its locks.

mod add;
mod slot;
mod table;

pub(crate) use table::{current, read, seed, write};
