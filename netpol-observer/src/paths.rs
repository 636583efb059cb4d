//! Paths and queries of the aggregated API, and the documents by which clients find it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::protocol::{GROUP, VERSION};

/// A resource of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Drops,
    Flows,
    Explanations,
}

/// Resource, singular, kind, verbs.
const RESOURCES: [(Resource, &str, &str, &[&str]); 3] = [
    (Resource::Drops, "drop", "Drop", &["list", "watch"]),
    (Resource::Flows, "flow", "Flow", &["list"]),
    (Resource::Explanations, "explanation", "Explanation", &["list"]),
];

impl Resource {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Drops => "drops",
            Self::Flows => "flows",
            Self::Explanations => "explanations",
        }
    }
}

/// A value that needs no escape in a question to an agent: a name, a port, a protocol.
pub(super) fn plain<'a>(field: &str, value: &'a str) -> Result<&'a str, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !value.is_empty() && value.len() <= 253 && value.bytes().all(is_plain) {
        Ok(value)
    } else {
        Err(format!("{field}: {value:?} is not valid"))
    }
}

/// The resource and the namespace of a path.
pub(super) fn resource_of(path: &str) -> Option<(Resource, Option<String>)> {
    let rest = path.strip_prefix("/apis/")?.strip_prefix(GROUP)?.strip_prefix('/')?;
    let rest = rest.strip_prefix(VERSION)?.strip_prefix('/')?;
    let (namespace, name) = match rest.strip_prefix("namespaces/") {
        Some(rest) => {
            let (namespace, name) = rest.split_once('/')?;
            plain("namespace", namespace).ok()?;
            (Some(namespace.to_owned()), name)
        }
        None => (None, rest),
    };
    let found = RESOURCES.iter().find(|(resource, ..)| resource.name() == name)?;
    Some((found.0, namespace))
}

/// The documents by which clients find the resources.
pub(super) fn discovery(path: &str) -> Option<Value> {
    let version = json!({ "groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION });
    let group = json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": GROUP,
        "versions": [version], "preferredVersion": version,
    });
    let resources: Vec<_> = RESOURCES
        .iter()
        .map(|(resource, singular, kind, verbs)| {
            let name = resource.name();
            json!({ "name": name, "singularName": singular, "namespaced": true, "kind": kind, "verbs": verbs })
        })
        .collect();
    match path.strip_prefix("/apis")?.trim_end_matches('/') {
        "" => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group] })),
        rest if rest.strip_prefix('/') == Some(GROUP) => Some(group),
        rest if rest == format!("/{GROUP}/{VERSION}") => Some(json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{GROUP}/{VERSION}"), "resources": resources,
        })),
        _ => None,
    }
}

pub(super) fn fields(query: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_resource_and_perhaps_a_namespace() {
        let of = |path: &str| {
            resource_of(path).map(|(resource, namespace)| (resource.name(), namespace))
        };
        let base = "/apis/observe.netpol.dev/v1alpha1";
        assert_eq!(of(&format!("{base}/drops")), Some(("drops", None)));
        let in_shop = Some(("flows", Some("shop".to_owned())));
        assert_eq!(of(&format!("{base}/namespaces/shop/flows")), in_shop);
        for bad in [
            "/namespaces/shop/flows/x",
            "/namespaces//flows",
            "/namespaces/a%2Fb/flows",
            "/pods",
            "",
        ] {
            assert_eq!(of(&format!("{base}{bad}")), None, "{bad}");
        }
    }

    #[test]
    fn discovery_names_every_resource() {
        let base = "/apis/observe.netpol.dev";
        assert_eq!(discovery("/apis").unwrap()["groups"][0]["name"], GROUP);
        assert_eq!(discovery(base).unwrap()["kind"], "APIGroup");
        let found = discovery(&format!("{base}/v1alpha1")).unwrap();
        assert_eq!(found["resources"].as_array().unwrap().len(), RESOURCES.len());
        assert_eq!(discovery("/apis/other"), None);
    }

    #[test]
    fn a_value_that_would_change_the_question_is_refused() {
        assert!(plain("pod", "web-0.x_y").is_ok());
        for bad in ["", "a&to=b", "a/b", "a b", "a?b", "ä"] {
            assert!(plain("pod", bad).is_err(), "{bad}");
        }
        assert_eq!(fields("a=b%2Fc&watch&x=1+2").get("a").map(String::as_str), Some("b/c"));
    }
}
