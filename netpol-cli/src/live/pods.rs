//! Pods by the names that people type.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use netpol_policy::model::ObjectName;

use super::cluster::{Cluster, message, within};

/// Time limit for a request.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Cluster {
    /// The name of a pod: `NAME`, `pod/NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// The text has another form, or two namespaces are given.
    pub(super) fn pod_name(
        &self,
        text: &str,
        namespace: Option<&str>,
    ) -> anyhow::Result<ObjectName> {
        let default = namespace.unwrap_or_else(|| self.default_namespace());
        parse(text, namespace, default)
    }

    /// The pod of this name.
    ///
    /// # Errors
    /// It does not exist, or may not be read.
    pub(super) async fn pod(&self, name: &ObjectName) -> anyhow::Result<Pod> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &name.namespace);
        let pod = within(TIMEOUT, pods.get_opt(&name.name)).await;
        let pod = pod
            .map_err(|error| message(&error))
            .with_context(|| format!("cannot read pod {name}"))?;
        pod.with_context(|| format!("there is no pod {name}"))
    }
}

fn parse(text: &str, namespace: Option<&str>, default: &str) -> anyhow::Result<ObjectName> {
    let (namespace, name) = match text.split_once('/') {
        None => (default, text),
        Some(("pod" | "pods" | "po", name)) => (default, name),
        Some((of_name, name)) => match namespace {
            Some(other) if other != of_name => {
                bail!("{text} is in namespace {of_name}, but --namespace is {other}")
            }
            _ => (of_name, name),
        },
    };
    if name.is_empty() || namespace.is_empty() || name.contains('/') {
        bail!("{text} is no pod: write NAME, pod/NAME or NAMESPACE/NAME");
    }
    Ok(ObjectName { namespace: namespace.into(), name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_as_kubectl_and_the_agent_do() {
        for (text, namespace, expected) in [
            ("web", None, "default/web"),
            ("pod/web", Some("shop"), "shop/web"),
            ("shop/web", None, "shop/web"),
            ("shop/web", Some("shop"), "shop/web"),
        ] {
            let name = parse(text, namespace, namespace.unwrap_or("default")).unwrap();
            assert_eq!(name.to_string(), expected);
        }
        assert!(parse("shop/web", Some("ops"), "ops").is_err());
        assert!(parse("shop/", None, "default").is_err());
        assert!(parse("deploy/shop/web", None, "default").is_err());
    }
}
