//! Messages between netpol-cni and the agent.
//!
//! In: a request of the plugin. Out: the response of the agent. One connection on the Unix socket [`SOCKET_PATH`] carries exactly
//! one request and one response. Each is a JSON document on one line, terminated by `\n` and at most [`MAX_MESSAGE_BYTES`] long.
//! The client keeps its writing side open until it has read the response. Must not: do IO, because the plugin's is blocking and
//! the agent's asynchronous.
//!
//! Field names follow the CNI specification 1.1.0 (sections "Parameters" and "Result types").
#![forbid(unsafe_code)]

pub mod build;
mod codec;
mod error_code;
mod message;

pub use codec::{Error, MAX_MESSAGE_BYTES, VERSION, decode, encode};
pub use error_code::ErrorCode;
pub use message::{Add, Attachment, Check, Gc, PodRef, Request, Response};

/// The agent's socket, unless the network configuration names another one (`agentSocket`).
pub const SOCKET_PATH: &str = "/run/netpol/cni.sock";
