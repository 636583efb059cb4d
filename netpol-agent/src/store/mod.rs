//! The known cluster: a plain struct with `apply`.
mod delta;

pub use delta::{Delta, Endpoint};
