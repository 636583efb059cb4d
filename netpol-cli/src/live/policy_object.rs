//! A NetworkPolicy of the cluster, and the pods that it selects.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::ListParams;
use netpol_policy::model::ObjectName;

use super::cluster::{Cluster, message, within};

/// Time limit for a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What `kubectl` calls NetworkPolicies.
const KINDS: [&str; 4] =
    ["networkpolicy", "networkpolicies", "netpol", "networkpolicy.networking.k8s.io"];

impl Cluster {
    /// The name of a NetworkPolicy: `NAME`, `networkpolicy/NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// The text has another form.
    pub(super) fn policy_name(
        &self,
        text: &str,
        namespace: Option<&str>,
    ) -> anyhow::Result<ObjectName> {
        let default = namespace.unwrap_or_else(|| self.default_namespace());
        let (of_name, name) = match text.split_once('/') {
            None => (default, text),
            Some((kind, name)) if KINDS.contains(&kind) => (default, name),
            Some(("clusternetworkpolicy" | "clusternetworkpolicies" | "cnp", name)) => bail!(
                "{text}: a ClusterNetworkPolicy has conditions: kubectl wait --for=condition=Programmed clusternetworkpolicy/{name}"
            ),
            Some((of_name, name)) => (of_name, name),
        };
        if name.is_empty() || of_name.is_empty() || name.contains('/') {
            bail!("{text} is no policy: write NAME, networkpolicy/NAME or NAMESPACE/NAME");
        }
        if namespace.is_some_and(|namespace| namespace != of_name) {
            bail!("{text} is in namespace {of_name}, but --namespace is {default}");
        }
        Ok(ObjectName::new(of_name, name))
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// It does not exist, or may not be read.
    pub(super) async fn policy(&self, name: &ObjectName) -> anyhow::Result<NetworkPolicy> {
        let policies = Api::<NetworkPolicy>::namespaced(self.client.clone(), &name.namespace);
        let policy = within(TIMEOUT, policies.get_opt(&name.name)).await;
        let policy = policy.map_err(|error| message(&error));
        let policy = policy.with_context(|| format!("cannot read NetworkPolicy {name}"))?;
        policy.with_context(|| format!("there is no NetworkPolicy {name}"))
    }

    /// The pods that a policy selects, without those that have ended or have the node's network.
    ///
    /// # Errors
    /// Pods may not be listed.
    pub(super) async fn selected(&self, policy: &NetworkPolicy) -> anyhow::Result<Vec<Pod>> {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        let selector = selector.map(in_words).unwrap_or_default();
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(&selector);
        let listed = within(TIMEOUT, pods.list(&params)).await;
        let listed = listed
            .map_err(|error| message(&error))
            .with_context(|| format!("cannot list the pods of namespace {namespace}"))?;
        Ok(listed.items.into_iter().filter(is_subject).collect())
    }
}

fn is_subject(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
    let spec = pod.spec.as_ref();
    !has_ended && spec.is_none_or(|spec| spec.host_network != Some(true))
}

/// A label selector as the API server's lists take it.
fn in_words(selector: &LabelSelector) -> String {
    let labels =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let requirements = selector.match_expressions.iter().flatten().map(|of| {
        let values = of.values.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        let key = &of.key;
        match of.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            // Exists; the API server has no other.
            _ => key.clone(),
        }
    });
    labels.chain(requirements).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_written_as_lists_take_them() {
        let selector = json!({
            "matchLabels": { "app": "web" },
            "matchExpressions": [
                { "key": "tier", "operator": "In", "values": ["a", "b"] },
                { "key": "old", "operator": "DoesNotExist" },
                { "key": "env", "operator": "NotIn", "values": ["dev"] },
                { "key": "team", "operator": "Exists" },
            ],
        });
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        assert_eq!(in_words(&selector), "app=web,tier in (a,b),!old,env notin (dev),team");
        assert_eq!(in_words(&LabelSelector::default()), "");
    }
}
