//! One pod, asked for by name: for a CNI ADD that comes before the watch has told the pod.

use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Client;
use kube::api::Request;
use tokio::time::timeout;

use super::access::Error;
use super::decode::{self, Decoded};
use netpol_policy::model::{Diagnostic, Kind, Object, ObjectName, Pod};

/// How long the server may take: an ADD waits no longer than twice that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the API server for a pod. `None` if it does not exist or cannot be understood, which the
/// diagnostics tell.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses, [`Error::Timeout`] if it does not answer.
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
        Some(Object::Policy(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_))
        | None => None,
    };
    Ok((pod, found))
}
