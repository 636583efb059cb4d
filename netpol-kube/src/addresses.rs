//! Reads the addresses of the API servers, for the time when the address of their Service cannot be reached.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::Api;
use tokio::time::timeout;

use super::access::Error;

/// Time limit for the response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The Service of the API server, and its `EndpointSlice`, which the server itself writes.
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// The addresses of all API servers, from the `EndpointSlice` `default/kubernetes`.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond.
pub async fn addresses(client: &Client) -> Result<Vec<SocketAddr>, Error> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let answer = timeout(ANSWER_TIMEOUT, slices.get(NAME)).await;
    let slice = answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??;
    let ports = slice.ports.unwrap_or_default();
    let port = ports.iter().find_map(|port| port.port).and_then(|port| u16::try_from(port).ok());
    let Some(port) = port else { return Ok(Vec::new()) };
    let texts = slice.endpoints.into_iter().flatten().flat_map(|endpoint| endpoint.addresses);
    Ok(texts.filter_map(|text| Some(SocketAddr::new(text.parse().ok()?, port))).collect())
}
