//! Clusters of a given size, as decoded objects, and one node's share of them.
//!
//! In: a [`Shape`]. Out: a [`ClusterModel`]: objects, which depend on the shape only, and the endpoints of one node. Pods
//! are dual-stack. Their labels are as of a Deployment: a few chosen ones, and a hash that its pods share. Must not: measure.

mod events;
mod follower;
pub mod json;
mod policies;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpol_common::ids::IfIndex;
use netpol_policy::model::{
    Addresses, ContainerPort, Interner, Kind, Labels, Namespace, Object, ObjectName, Pod, PodPhase,
    Policy, PortName, Transport,
};
use netpol_policy::store::{ClusterState, Delta, Endpoint, List, PodEnd};

pub use events::{Event, event, events};
pub use follower::Follower;
pub use policies::{ip_blocks, policy, select_all};

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Namespaces.
    pub n_namespaces: usize,
    /// Pods, spread evenly over the namespaces.
    pub n_pods: usize,
    /// Policies, spread evenly over the namespaces.
    pub n_policies: usize,
    /// Deployments in each namespace.
    pub n_apps: usize,
    /// Pods of the local node, spread evenly over the cluster.
    pub n_local: usize,
}

impl Shape {
    /// 10,000 pods, 1,000 policies, 100 namespaces; a full node.
    pub const MEDIUM: Self =
        Self { n_namespaces: 100, n_pods: 10_000, n_policies: 1_000, n_apps: 10, n_local: 110 };
    /// 100,000 pods, 10,000 policies, 1,000 namespaces; a full node.
    pub const LARGE: Self =
        Self { n_namespaces: 1_000, n_pods: 100_000, n_policies: 10_000, n_apps: 10, n_local: 110 };
    /// 25,000 namespaces with 4 pods and 3 policies each: the shape of Antrea's published benchmark. A full node.
    pub const MANY_NAMESPACES: Self =
        Self { n_namespaces: 25_000, n_pods: 100_000, n_policies: 75_000, n_apps: 2, n_local: 110 };
}

/// Number of teams; each owns an equal share of the namespaces.
const N_TEAMS: usize = 20;

/// A cluster as decoded objects.
#[derive(Clone, Debug)]
pub struct ClusterModel {
    /// The pods, sorted by name, as an API server lists them.
    pub pods: Vec<Pod>,
    /// The namespaces, sorted by name.
    pub namespaces: Vec<Namespace>,
    /// The policies, sorted by name.
    pub policies: Vec<Policy>,
    /// The interfaces of one node.
    pub endpoints: Vec<Endpoint>,
    /// The interners of each kind, as used when decoding a list.
    pub interners: BTreeMap<Kind, Interner>,
}

impl ClusterModel {
    /// The cluster of a shape.
    pub fn new(shape: &Shape) -> Self {
        let Shape { n_namespaces, n_pods, n_policies, n_apps, n_local } = *shape;
        // In list order, so that their strings are allocated in that order too.
        let mut names: Vec<(ObjectName, usize)> =
            (0..n_pods).map(|n| (pod(shape, n).name, n)).collect();
        names.sort();
        let stride = n_pods / n_local.max(1);
        let numbers = (100_u32..).zip(1_u16..);
        let endpoints = (0..n_local)
            .map(|n| pod(shape, n * stride + n % stride))
            .zip(numbers)
            .map(|(pod, (ifindex, egress_mark))| endpoint(&pod, ifindex, egress_mark))
            .collect();
        let policies =
            (0..n_namespaces).flat_map(|first| (first..n_policies).step_by(n_namespaces));
        let mut interners = BTreeMap::new();
        let pods = names.into_iter().map(|(_, n)| pod(shape, n));
        let namespaces = (0..n_namespaces).map(|n| namespace(n, &team(n)));
        let policies = policies.map(|n| policy(n, n_namespaces, n_apps));
        Self {
            pods: shared(&mut interners, Kind::Pod, pods, Interner::share_pod),
            namespaces: shared(
                &mut interners,
                Kind::Namespace,
                namespaces,
                Interner::share_namespace,
            ),
            policies: shared(&mut interners, Kind::NetworkPolicy, policies, Interner::share_policy),
            endpoints,
            interners,
        }
    }

    /// The same cluster as lists, one for each kind, and the node's endpoints.
    pub fn into_deltas(self) -> Vec<Delta> {
        let Self { pods, namespaces, policies, endpoints, mut interners } = self;
        let mut list = |kind, objects| {
            let interner = interners.remove(&kind).unwrap_or_default();
            Delta::Replace(List::shared(kind, objects, Vec::new(), interner))
        };
        let mut deltas = vec![
            list(Kind::Namespace, namespaces.into_iter().map(Object::Namespace).collect()),
            list(Kind::NetworkPolicy, policies.into_iter().map(Object::Policy).collect()),
            list(Kind::Pod, pods.into_iter().map(Object::Pod).collect()),
        ];
        deltas.extend(endpoints.into_iter().map(Delta::UpsertEndpoint));
        deltas
    }

    /// The state after these lists.
    pub fn into_state(self) -> ClusterState {
        let mut state = ClusterState::default();
        for delta in self.into_deltas() {
            drop(state.apply(delta));
        }
        state
    }
}

/// Interns the objects of a kind, as when decoding a list.
fn shared<T>(
    interners: &mut BTreeMap<Kind, Interner>,
    kind: Kind,
    objects: impl Iterator<Item = T>,
    share: impl Fn(&mut Interner, &mut T),
) -> Vec<T> {
    let interner = interners.entry(kind).or_default();
    let shared = objects.map(|mut object| {
        share(interner, &mut object);
        object
    });
    shared.collect()
}

/// Labels from pairs.
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
}

/// The name of a namespace.
pub fn namespace_name(n: usize) -> String {
    format!("ns-{n:05}")
}

fn team(namespace: usize) -> String {
    format!("team-{}", namespace % N_TEAMS)
}

/// A namespace of a team.
pub fn namespace(n: usize, team: &str) -> Namespace {
    let name = namespace_name(n);
    let labels = labels(&[("kubernetes.io/metadata.name", &name), ("team", team)]);
    Namespace { name: Arc::from(name), labels, terminating: false, allows_forwarding: false }
}

/// Pod number `n`.
pub fn pod(shape: &Shape, n: usize) -> Pod {
    let namespace = n % shape.n_namespaces;
    let app = (n / shape.n_namespaces) % shape.n_apps;
    let hash = format!("{:010x}", (namespace * shape.n_apps + app) * 2_654_435_761);
    let app_name = format!("app-{app}");
    let name = format!("{app_name}-{hash}-{n:05x}");
    Pod {
        name: ObjectName::new(&namespace_name(namespace), &name),
        uid: Arc::from(format!("5f3c0000-0000-4000-8000-{n:012x}")),
        static_uid: Arc::default(),
        created_s: 1_790_000_000,
        labels: labels(&[
            ("app.kubernetes.io/name", &app_name),
            ("app.kubernetes.io/part-of", &format!("part-{}", app % 3)),
            ("pod-template-hash", &hash),
            ("tier", if app.is_multiple_of(2) { "front" } else { "back" }),
        ]),
        node: Arc::from(format!("node-{:04}", n % (shape.n_pods / shape.n_local.max(1)).max(1))),
        reported_addresses: addresses(n),
        host_network: false,
        phase: PodPhase::Running,
        terminating: false,
        ports: [ContainerPort {
            name: PortName::parse("http"),
            transport: Transport::Tcp,
            number: 8080,
            host_port: None,
        }]
        .into(),
        allows_forwarding: false,
        declines_short_cut: false,
    }
}

/// The addresses of pod number `n`, one of each family.
pub fn addresses(n: usize) -> Addresses {
    let number = u32::try_from(n).unwrap_or(u32::MAX);
    let v4 = Ipv4Addr::from_bits(0x0a00_0000 + number);
    let v6 = Ipv6Addr::from_bits((0xfd00_0000_u128 << 96) + u128::from(number));
    [v4.into(), v6.into()].into()
}

/// The interface of a pod.
pub fn endpoint(pod: &Pod, ifindex: u32, egress_mark: u16) -> Endpoint {
    Endpoint {
        ifindex: IfIndex(ifindex),
        container_id: Arc::from(format!("sandbox-{ifindex}")),
        pod: pod.name.clone(),
        pod_uid: Arc::clone(&pod.uid),
        egress_mark,
        addresses: pod.reported_addresses.to_vec(),
        pod_end: PodEnd::default(),
    }
}
