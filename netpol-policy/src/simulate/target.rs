//! From the words of a person to a source or destination.
//!
//! In: the state, and a name such as `shop/front`, `deploy/front` or `redis.shop.svc`. Out: a [`PodOrIp`], or the names that
//! the person may have meant. Must not: evaluate policies.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::probe::PodOrIp;
use crate::model::{ObjectName, Pod, WORKLOADS, WorkloadKind};
use crate::store::ClusterState;

/// The name of every address outside the cluster.
const EXTERNAL: &str = "external";

/// The largest number of names that a message suggests.
const MAX_SUGGESTED: usize = 3;

/// A text that names no source or destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unresolved {
    text: String,
    /// Why not, if the reason is another than that the object does not exist.
    reason: Option<String>,
    /// Names that resemble the text, the nearest first.
    pub suggested: Vec<String>,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, reason, suggested } = self;
        match reason {
            Some(reason) => write!(f, "{text}: {reason}")?,
            None => write!(f, "there is no pod, workload, Service or node {text}")?,
        }
        match suggested.as_slice() {
            [] => Ok(()),
            names => write!(f, " (did you mean {}?)", names.join(" or ")),
        }
    }
}

/// Finds the source or destination that a text names: an address, a block, `external`, `NAMESPACE/NAME` of a pod, workload or
/// Service, `KIND/NAME` or `NAMESPACE/KIND/NAME` with the kinds that `kubectl` takes, a pod with `@ADDRESS`, or the DNS name
/// of a Service. A name without a namespace is looked up in `namespace`, else in all namespaces.
///
/// # Errors
/// There is no such object, or there are several.
pub fn resolve(
    state: &ClusterState,
    text: &str,
    namespace: Option<&str>,
) -> Result<PodOrIp, Unresolved> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(PodOrIp::Address(address.to_canonical()));
    }
    if text.contains('/')
        && let Ok(block) = text.parse::<IpNetwork>()
    {
        let network = IpNetwork::new(block.network(), block.prefix());
        return Ok(network.map_or(PodOrIp::Address(block.ip()), PodOrIp::Block));
    }
    if text.eq_ignore_ascii_case(EXTERNAL) {
        return Ok(PodOrIp::External);
    }
    let names = Names { state, text, namespace };
    if let Some((name, address)) = text.split_once('@') {
        let address = address
            .parse()
            .map_err(|_not_an_address| names.because(format!("{address} is not an IP address")))?;
        return match (Names { text: name, ..names }).find()? {
            PodOrIp::Pod { name, address: _ } => Ok(PodOrIp::Pod { name, address: Some(address) }),
            PodOrIp::Address(_)
            | PodOrIp::Block(_)
            | PodOrIp::External
            | PodOrIp::Node(_)
            | PodOrIp::Service(_) => Err(names.because("only a pod has an @ADDRESS".to_owned())),
        };
    }
    names.find()
}

/// A text to look up.
#[derive(Clone, Copy)]
struct Names<'a> {
    state: &'a ClusterState,
    text: &'a str,
    namespace: Option<&'a str>,
}

/// The kinds of objects that a name can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Any,
    Pod,
    Workload(&'static WorkloadKind),
    Service,
}

impl Names<'_> {
    fn find(self) -> Result<PodOrIp, Unresolved> {
        let parts: Vec<&str> = self.text.split('/').collect();
        match *parts.as_slice() {
            [name] => match self.dns(name) {
                Some(found) => Ok(found),
                None => self.anywhere(Sort::Any, name),
            },
            ["node" | "nodes" | "no", name] if self.state.node(name).is_some() => {
                Ok(PodOrIp::Node(Arc::from(name)))
            }
            [first, name] => match self.within(Sort::Any, first, name) {
                Some(found) => Ok(found),
                None => match sort(first) {
                    Some(sort) => self.anywhere(sort, name),
                    None => Err(self.unknown()),
                },
            },
            [namespace, kind, name] => {
                let found = sort(kind).and_then(|sort| self.within(sort, namespace, name));
                found.ok_or_else(|| self.unknown())
            }
            _ => Err(self.unknown()),
        }
    }

    /// The object with this name in the default namespace, or in the only namespace that has one.
    fn anywhere(self, sort: Sort, name: &str) -> Result<PodOrIp, Unresolved> {
        if let Some(namespace) = self.namespace {
            return self.within(sort, namespace, name).ok_or_else(|| self.unknown());
        }
        let pods = self.state.pods().map(|pod| &pod.name.namespace);
        let services = self.state.services().map(|service| &service.name.namespace);
        let namespaces: BTreeSet<&Arc<str>> = pods.chain(services).collect();
        let found = namespaces
            .into_iter()
            .filter_map(|namespace| Some((namespace, self.within(sort, namespace, name)?)));
        let mut found: Vec<_> = found.collect();
        match found.len() {
            0 => Err(self.unknown()),
            1 => found.pop().map(|(_, found)| found).ok_or_else(|| self.unknown()),
            _ => {
                let namespaces: Vec<&str> =
                    found.iter().map(|(namespace, _)| &***namespace).collect();
                let namespaces = namespaces.join(", ");
                Err(self
                    .because(format!("the namespaces {namespaces} have it: choose one with -n")))
            }
        }
    }

    /// The object with this name in a namespace: a pod, else a workload or one of its pods, else a Service.
    fn within(self, sort: Sort, namespace: &str, name: &str) -> Option<PodOrIp> {
        let pod = |name: &str| {
            let pod = self.state.pod(&ObjectName::new(namespace, name))?;
            Some(PodOrIp::Pod { name: pod.name.clone(), address: None })
        };
        let of_kind = |kind: &WorkloadKind| pod(&kind.pod_name(name));
        let service = || {
            let name = ObjectName::new(namespace, name);
            let exists = self.state.services().any(|service| service.name == name);
            exists.then_some(PodOrIp::Service(name))
        };
        match sort {
            Sort::Pod => pod(name),
            Sort::Workload(kind) => of_kind(kind).or_else(|| self.pod_of(namespace, name)),
            Sort::Service => service(),
            Sort::Any => pod(name)
                .or_else(|| WORKLOADS.iter().find_map(of_kind))
                .or_else(service)
                .or_else(|| self.pod_of(namespace, name)),
        }
    }

    /// The first pod whose name begins with that of a workload.
    fn pod_of(self, namespace: &str, workload: &str) -> Option<PodOrIp> {
        let is_its = |pod: &&Pod| {
            let rest = pod.name.name.strip_prefix(workload);
            rest.is_some_and(|rest| rest.starts_with('-'))
                && self.state.held_addresses(pod).next().is_some()
        };
        let pod = self.state.pods_in(namespace).find(is_its)?;
        Some(PodOrIp::Pod { name: pod.name.clone(), address: None })
    }

    /// The Service that a name of the cluster's DNS means, such as `redis.shop.svc.cluster.local`, or the pod of a `StatefulSet`
    /// behind a headless Service (`db-0.db.shop.svc`).
    fn dns(self, name: &str) -> Option<PodOrIp> {
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        let at = labels.iter().position(|label| *label == "svc");
        let (service, namespace, host) = match (at, labels.as_slice()) {
            (Some(3), [host, service, namespace, ..]) => (*service, *namespace, Some(*host)),
            (Some(2), [service, namespace, ..]) | (None, [service, namespace]) => {
                (*service, *namespace, None)
            }
            (Some(_) | None, _) => return None,
        };
        let host = host.and_then(|host| self.within(Sort::Pod, namespace, host));
        host.or_else(|| self.within(Sort::Service, namespace, service))
    }

    fn unknown(self) -> Unresolved {
        Unresolved { text: self.text.to_owned(), reason: None, suggested: self.suggested() }
    }

    fn because(self, reason: String) -> Unresolved {
        Unresolved { text: self.text.to_owned(), reason: Some(reason), suggested: Vec::new() }
    }

    /// The names that differ from the text by few letters. A suggestion has the form of the text.
    fn suggested(self) -> Vec<String> {
        let n_letters = self.text.chars().count();
        // Charts put the name of the release before that of the workload.
        let is_part = |name: &str| {
            let begins = name.strip_prefix(self.text).is_some_and(|rest| rest.starts_with('-'));
            begins || name.strip_suffix(self.text).is_some_and(|rest| rest.ends_with('-'))
        };
        let pods = self.state.pods().map(|pod| &pod.name);
        let services = self.state.services().map(|service| &service.name);
        let mut near: BTreeSet<(usize, String)> = BTreeSet::new();
        for ObjectName { namespace, name } in pods.chain(services) {
            let of_workload = WorkloadKind::of_pod(name);
            let short_name = of_workload.map_or(&**name, |(_, name)| name);
            let kind = of_workload.map_or("svc", |(kind, _)| kind.short);
            for written in [
                format!("{namespace}/{short_name}"),
                format!("{kind}/{short_name}"),
                format!("{namespace}/{kind}/{short_name}"),
                short_name.to_owned(),
                format!("{short_name}.{namespace}.svc"),
            ] {
                let distance = strsim::osa_distance(self.text, &written);
                let is_near = distance <= (n_letters / 4).clamp(1, 3);
                if is_near || (written == short_name && is_part(short_name)) {
                    near.insert((distance, written));
                }
            }
        }
        near.into_iter().take(MAX_SUGGESTED).map(|(_, written)| written).collect()
    }
}

fn sort(kind: &str) -> Option<Sort> {
    match kind {
        "pod" | "pods" | "po" => Some(Sort::Pod),
        "svc" | "service" | "services" => Some(Sort::Service),
        _ => WorkloadKind::from_argument(kind).map(Sort::Workload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::parse;
    use crate::store::Delta;

    const OBJECTS: &str = r"
{ apiVersion: apps/v1, kind: Deployment, metadata: { name: front, namespace: shop }, spec: { template: {} } }
---
{ apiVersion: apps/v1, kind: StatefulSet, metadata: { name: redis, namespace: shop }, spec: { template: {} } }
---
{ apiVersion: v1, kind: Service, metadata: { name: redis, namespace: shop }, spec: { selector: { a: b } } }
---
{ apiVersion: v1, kind: Service, metadata: { name: dns, namespace: kube-system } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: cart-5d-x, namespace: shop }, status: { podIP: 10.0.0.1 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: db-0, namespace: shop }, status: { podIP: 10.0.0.2 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: front, namespace: ops }, status: { podIP: 10.0.0.3 } }
---
{ apiVersion: v1, kind: Node, metadata: { name: n1 }, status: { addresses: [{ type: InternalIP, address: 192.0.2.1 }] } }
";

    #[track_caller]
    fn check(namespace: Option<&str>, text: &str, expected: &str) {
        let mut state = ClusterState::default();
        for read in parse("x", OBJECTS).objects {
            drop(state.apply(Delta::Upsert(read.object)));
        }
        let found = match resolve(&state, text, namespace) {
            Ok(found) => found.to_string(),
            Err(error) => format!("! {error}"),
        };
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn objects_have_the_names_that_kubectl_and_dns_give_them() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("external", "external"),
            ("shop/front", "shop/deploy/front"),
            ("deploy/front", "shop/deploy/front"),
            ("deployments/front", "shop/deploy/front"),
            ("shop/deployment/front", "shop/deploy/front"),
            ("ops/front", "ops/front"),
            ("pod/front", "ops/front"),
            ("shop/redis", "shop/sts/redis"),
            ("svc/redis", "svc/shop/redis"),
            ("shop/svc/redis", "svc/shop/redis"),
            ("redis.shop.svc", "svc/shop/redis"),
            ("redis.shop.svc.cluster.local.", "svc/shop/redis"),
            ("redis.shop", "svc/shop/redis"),
            ("kube-system/dns", "svc/kube-system/dns"),
            ("db-0.db.shop.svc", "shop/db-0"),
            ("shop/cart", "shop/cart-5d-x"),
            ("deploy/cart", "shop/cart-5d-x"),
            ("cart", "shop/cart-5d-x"),
            ("node/n1", "node/n1"),
            ("shop/db-0@10.0.0.2", "shop/db-0@10.0.0.2"),
        ] {
            check(None, text, expected);
        }
        check(Some("ops"), "front", "ops/front");
        check(Some("shop"), "front", "shop/deploy/front");
    }

    #[test]
    fn near_misses_are_suggested() {
        for (text, expected) in [
            (
                "shop/frnt",
                "! there is no pod, workload, Service or node shop/frnt (did you mean shop/front?)",
            ),
            (
                "deploy/frnot",
                "! there is no pod, workload, Service or node deploy/frnot (did you mean deploy/front?)",
            ),
            (
                "svc/rediss",
                "! there is no pod, workload, Service or node svc/rediss (did you mean svc/redis?)",
            ),
            ("5d", "! there is no pod, workload, Service or node 5d"),
            ("x", "! there is no pod, workload, Service or node x (did you mean cart-5d-x?)"),
            ("shop/unlike", "! there is no pod, workload, Service or node shop/unlike"),
            ("a/b/c/d", "! there is no pod, workload, Service or node a/b/c/d"),
            ("front", "! front: the namespaces ops, shop have it: choose one with -n"),
            ("svc/redis@10.0.0.1", "! svc/redis@10.0.0.1: only a pod has an @ADDRESS"),
            ("shop/db-0@x", "! shop/db-0@x: x is not an IP address"),
        ] {
            check(None, text, expected);
        }
    }
}
