//! Gets one pod by name, for a CNI ADD that arrives before the pod's watch event.

use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Client;
use kube::api::Request;
use tokio::time::timeout;

use super::access::Error;
use super::decode::{self, Decoded};
use netpol_policy::model::{Diagnostic, Kind, Object, ObjectName, Pod};

/// Time limit for the response. An ADD waits no longer than twice that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Gets a pod from the API server. `None` if it does not exist or cannot be decoded; in the second case the diagnostics say
/// why.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond.
pub async fn pod(
    client: &Client,
    name: &ObjectName,
) -> Result<(Option<Pod>, Vec<Diagnostic>), Error> {
    let path = <v1::Pod as kube::Resource>::url_path(&(), Some(&*name.namespace));
    let request = Request::new(path)
        .get(&name.name, &kube::api::GetParams::default())
        .map_err(kube::Error::BuildRequest)?;
    let answer = timeout(ANSWER_TIMEOUT, client.request_text(request)).await;
    let answer = answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })?;
    let json = match answer.map_err(Error::from) {
        Err(error) if error.status() == Some(404) => return Ok((None, Vec::new())),
        answer => answer?,
    };
    let Decoded { object, found, .. } = match decode::object(Kind::Pod, &json) {
        Ok(decoded) => decoded,
        Err(found) => return Ok((None, vec![found])),
    };
    let pod = match object {
        Some(Object::Pod(pod)) => Some(pod),
        Some(
            Object::Policy(_)
            | Object::ClusterPolicy(_)
            | Object::Namespace(_)
            | Object::Service(_)
            | Object::Node(_),
        )
        | None => None,
    };
    Ok((pod, found))
}
