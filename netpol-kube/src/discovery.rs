//! Which version of ClusterNetworkPolicy an API server serves.
//!
//! In: a client. Out: the version whose objects are listed, or that there is none. Must not: retry.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use kube::Client;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

use super::access::Error;

/// The API group.
const GROUP: &str = "policy.networking.k8s.io";

/// The versions that are understood, the best first.
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha2"];

/// The name of the kind in paths.
const PLURAL: &str = "clusternetworkpolicies";

/// Time limit for the response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The path of the objects in the best version that is served; `None` if there is none. A server that begins and does not know
/// its own kinds yet answers 503, since Kubernetes 1.23.
///
/// # Errors
/// The server cannot be reached, or does not say which versions it serves.
pub(super) async fn path(client: &Client) -> Result<Option<String>, Error> {
    let group = format!("/apis/{GROUP}");
    let Some(found) = get::<APIGroup>(client, &group).await? else { return Ok(None) };
    for version in VERSIONS {
        if !found.versions.iter().any(|served| served.version == version) {
            continue;
        }
        let path = format!("{group}/{version}");
        // A version of the group need not have this kind.
        let kinds = get::<APIResourceList>(client, &path).await?;
        if kinds.is_some_and(|kinds| kinds.resources.iter().any(|kind| kind.name == PLURAL)) {
            return Ok(Some(format!("{path}/{PLURAL}")));
        }
    }
    Ok(None)
}

/// The document at a path; `None` if there is none.
async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Option<T>, Error> {
    let request = kube::core::Request::new(path)
        .list(&kube::api::ListParams::default())
        .map_err(kube::Error::BuildRequest)?;
    let answer = timeout(ANSWER_TIMEOUT, client.request_text(request)).await;
    match answer
        .map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })?
        .map_err(Error::from)
    {
        Ok(json) => Ok(Some(serde_json::from_str(&json)?)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
