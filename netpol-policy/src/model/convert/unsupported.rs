//! Objects that netpol does not evaluate: which of them their authors may believe to be in force.

use serde_json::Value;

use crate::model::{Kind, WORKLOADS};

/// Groups of the kinds that netpol evaluates; the core group is empty.
const GROUPS: [&str; 6] =
    ["", "networking.k8s.io", "extensions", "apps", "batch", "discovery.k8s.io"];

/// The group of `ClusterNetworkPolicy`.
const CLUSTER_POLICIES: &str = "policy.networking.k8s.io";

/// Kinds of policies of other engines that are not called `NetworkPolicy`, with their groups.
const FOREIGN_POLICIES: [(&str, &str); 6] = [
    ("security.istio.io", "AuthorizationPolicy"),
    ("policy.linkerd.io", "AuthorizationPolicy"),
    ("policy.linkerd.io", "ServerAuthorization"),
    ("k8s.ovn.org", "EgressFirewall"),
    ("kuma.io", "MeshTrafficPermission"),
    ("crd.antrea.io", "Tier"),
];

/// The largest number of letters by which a misspelled kind differs.
const MAX_DISTANCE: usize = 2;

/// An object that netpol does not evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// The kind does not exist, but resembles this one.
    Misspelled {
        /// The kind that was probably meant.
        meant: &'static str,
    },
    /// A policy of another engine.
    ForeignPolicy,
    /// Anything else.
    Other,
}

/// Whether the kind resembles `NetworkPolicy`. Such a policy is read, because without it the pods that it selects would not be
/// isolated.
pub(super) fn is_misspelled_policy(value: &Value) -> bool {
    unsupported(value) == Unsupported::Misspelled { meant: Kind::NetworkPolicy.as_str() }
}

/// Classifies an object that [`super::object`] and [`super::workload`] do not convert.
pub fn unsupported(value: &Value) -> Unsupported {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    if GROUPS.contains(&group) {
        return misspelled(kind)
            .map_or(Unsupported::Other, |meant| Unsupported::Misspelled { meant });
    }
    if group == CLUSTER_POLICIES
        && let Some(meant) = misspelled(kind)
        && meant == Kind::ClusterNetworkPolicy.as_str()
    {
        return Unsupported::Misspelled { meant };
    }
    let is_policy = kind.to_ascii_lowercase().contains("networkpolicy");
    if is_policy || FOREIGN_POLICIES.contains(&(group, kind)) {
        return Unsupported::ForeignPolicy;
    }
    Unsupported::Other
}

/// The evaluated kind that a kind resembles: equal but for case, separators and plural, or with few other letters.
fn misspelled(kind: &str) -> Option<&'static str> {
    let plain: String = kind.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    let of_model = Kind::ALL.into_iter().map(Kind::as_str);
    let known = of_model.chain(WORKLOADS.iter().map(|workload| workload.kind));
    known.into_iter().find(|known| {
        let known = known.to_ascii_lowercase();
        let plural = known
            .strip_suffix('y')
            .map_or_else(|| format!("{known}s"), |stem| format!("{stem}ies"));
        // A short kind has other kinds with as few differences.
        let distance = if known.len() < 6 { 0 } else { MAX_DISTANCE };
        plain == plural || strsim::osa_distance(&plain, &known) <= distance
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(api_version: &str, kind: &str, expected: Unsupported) {
        let found = unsupported(&json!({ "apiVersion": api_version, "kind": kind }));
        assert_eq!(found, expected, "{api_version} {kind}");
    }

    #[test]
    fn a_kind_that_resembles_an_evaluated_one_is_misspelled() {
        for (kind, meant) in [
            ("Networkpolicy", "NetworkPolicy"),
            ("networkPolicy", "NetworkPolicy"),
            ("NetworkPolicies", "NetworkPolicy"),
            ("NetworkPolcy", "NetworkPolicy"),
            ("Network-Policy", "NetworkPolicy"),
            ("Namspace", "Namespace"),
            ("pod", "Pod"),
            ("Pods", "Pod"),
            ("Services", "Service"),
            ("Deploymnet", "Deployment"),
            ("Cronjob", "CronJob"),
        ] {
            for api_version in ["networking.k8s.io/v1", "v1", "apps/v1", ""] {
                check(api_version, kind, Unsupported::Misspelled { meant });
            }
        }
    }

    #[test]
    fn existing_kinds_are_not_misspelled() {
        for (api_version, kind) in [
            ("v1", "ConfigMap"),
            ("v1", "Secret"),
            ("v1", "ServiceAccount"),
            ("v1", "Endpoints"),
            ("v1", "Event"),
            ("apps/v1", "ControllerRevision"),
            ("networking.k8s.io/v1", "Ingress"),
            ("networking.k8s.io/v1", "IngressClass"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("example.org/v1", "Networkpolic"),
            ("kustomize.config.k8s.io/v1beta1", "Kustomization"),
        ] {
            check(api_version, kind, Unsupported::Other);
        }
    }

    #[test]
    fn a_misspelled_cluster_policy_is_no_policy_of_another_engine() {
        let meant = "ClusterNetworkPolicy";
        for kind in ["ClusterNetworkpolicy", "ClusterNetworkPolicies", "ClusterNetworkPolcy"] {
            let version = "policy.networking.k8s.io/v1alpha2";
            check(version, kind, Unsupported::Misspelled { meant });
        }
    }

    #[test]
    fn policies_of_other_engines_are_recognised() {
        for (api_version, kind) in [
            ("cilium.io/v2", "CiliumNetworkPolicy"),
            ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
            ("projectcalico.org/v3", "GlobalNetworkPolicy"),
            ("crd.projectcalico.org/v1", "NetworkPolicy"),
            ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
            ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
            ("network.openshift.io/v1", "EgressNetworkPolicy"),
            ("security.istio.io/v1", "AuthorizationPolicy"),
        ] {
            check(api_version, kind, Unsupported::ForeignPolicy);
        }
    }
}
