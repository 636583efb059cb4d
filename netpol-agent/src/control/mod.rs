//! Questions to a running agent, over HTTP.
//!
//! In: requests on a Unix socket (all paths, for root only) and on TCP addresses (health, and metrics). Out: JSON, text and
//! lines of JSON. Must not: change the agent's state.

pub mod client;
mod listen;
mod server;
pub mod tcp;

pub use listen::ListenAddress;
pub(crate) use server::service;
pub use server::{Answer, Error, Route, serve_unix};
