//! One pod, asked for by name: for a CNI ADD that comes before the watch has told the pod.

use k8s_openapi::api::core::v1;
use kube::Client;
use kube::api::Request;

use super::access::Error;
use super::decode;
use crate::model::{Diagnostic, Kind, Object, ObjectName, Pod};

/// Asks the API server for a pod. `None` if it does not exist or cannot be understood, which the
/// diagnostics tell.
///
/// # Errors
/// [`Error::Request`] if the server does not answer or refuses.
pub async fn pod(
    client: &Client,
    name: &ObjectName,
) -> Result<(Option<Pod>, Vec<Diagnostic>), Error> {
    let path = <v1::Pod as kube::Resource>::url_path(&(), Some(&*name.namespace));
    let request = Request::new(path)
        .get(&name.name, &kube::api::GetParams::default())
        .map_err(kube::Error::BuildRequest)?;
    let json = match client.request_text(request).await.map_err(Error::from) {
        Err(error) if error.status() == Some(404) => return Ok((None, Vec::new())),
        answer => answer?,
    };
    let head = match decode::head(Kind::Pod, &json) {
        Ok(head) => head,
        Err(found) => return Ok((None, vec![found])),
    };
    let (object, found) = decode::object(&head, &json);
    let pod = match object {
        Some(Object::Pod(pod)) => Some(pod),
        Some(Object::Policy(_) | Object::Namespace(_) | Object::Service(_) | Object::Node(_))
        | None => None,
    };
    Ok((pod, found))
}
