//! Questions to a running agent, over HTTP.
//!
//! In: requests on a Unix socket (all paths, for root only) and on a TCP address (health and metrics). Out: JSON, text and
//! lines of JSON. Must not: change the agent's state.

pub mod client;
mod server;

pub use server::{Answer, Error, Route, serve_tcp, serve_unix};
