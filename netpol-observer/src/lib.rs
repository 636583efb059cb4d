//! The observer: what the agents of all nodes know, in the API of the cluster, so that its authentication and RBAC decide who sees what.
//!
//! ```text
//!  kubectl netpol ─▶ API server ─▶ observer ◀── agents
//!                    (who, RBAC)   (by namespace)   (each opens the connection)
//! ```
//!
//! [`observer`] serves an aggregated API (`api`) and takes the connections of agents (`links`); [`dial`] is the agent's side. No node
//! listens for it: an agent opens the connection, proves by a token which node it is of, and then answers requests on it.
//!
//! Must not: answer anybody but the API server and the agents; show a user what is not of a namespace that RBAC lets them see.
#![forbid(unsafe_code)]

mod api;
mod certificate;
pub mod dial;
mod explain;
mod follow;
mod front_proxy;
mod links;
pub mod observer;
mod paths;
mod protocol;
pub mod records;
mod rights;
mod table;
mod tokens;

pub use protocol::{AUDIENCE, GROUP, VERSION};
