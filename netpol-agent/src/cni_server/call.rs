//! Calls of the CNI plugin to the event loop.

use netpol_proto::{Request, Response};
use tokio::sync::oneshot;

/// A request that waits for its response.
#[derive(Debug)]
pub struct Call {
    /// The request of the plugin.
    pub request: Request,
    /// Takes the response. If it is dropped without one, the plugin is asked to try again later. Closed once the plugin has
    /// disconnected.
    pub reply: oneshot::Sender<Response>,
}
