//! Gets one namespace by name, because the watch of another kind may be ahead of that of the namespaces.

use kube::Client;
use serde::de::Error as _;

use super::access::Error;
use super::decode;
use super::request::{self, Scope};
use netpol_policy::model::{Kind, Namespace, Object};

/// Gets the newest state of a namespace; `None` if it does not exist. A list of one, because the agent may list namespaces and
/// not get them.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond,
/// [`Error::Answer`] if the answer cannot be decoded.
pub async fn namespace(client: &Client, name: &str) -> Result<Option<Namespace>, Error> {
    let scope = Scope { kind: Kind::Namespace, name: Some(name.to_owned()), path: None };
    let json = request::list(client, &scope, 1, None).await?;
    let mut found = Ok(None);
    decode::page(Kind::Namespace, &json, |decoded| {
        found = match decoded.map(|decoded| decoded.object) {
            Ok(Some(Object::Namespace(namespace))) => Ok(Some(namespace)),
            // Not the same as a namespace that does not exist.
            _ => Err(serde_json::Error::custom("the namespace cannot be decoded")),
        };
    })?;
    Ok(found?)
}
