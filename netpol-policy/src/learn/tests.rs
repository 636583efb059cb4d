//! Learned policies allow what was seen, and nearly nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use expect_test::{expect, expect_file};
use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::*;
use crate::manifests;
use crate::model::Object;
use crate::simulate::{Cluster, Engine, PodOrIp, PortChoice, Probe};

fn objects(text: &str) -> Vec<Object> {
    let manifests = manifests::parse("objects.yaml", text);
    assert!(manifests.findings.is_empty(), "{:?} in\n{text}", manifests.findings);
    manifests.objects.into_iter().map(|read| read.object).collect()
}

fn cluster(texts: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(Engine::Reference);
    let all = texts.iter().flat_map(|text| objects(text)).collect();
    let (all, _) = crate::simulate::with_implicit_namespaces(all);
    cluster.set(all).unwrap();
    cluster
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn observed(pod: &str, direction: Direction, port: (Transport, u16), remote: &str) -> Observed {
    let (namespace, name) = pod.split_once('/').unwrap();
    Observed {
        pod: ObjectName::new(namespace, name),
        direction,
        transport: port.0,
        port: port.1,
        remote: ip(remote),
        peer: None,
    }
}

const SHOP: &str = r"
apiVersion: v1
kind: Node
metadata: { name: n1 }
status: { addresses: [{ type: InternalIP, address: 192.168.0.1 }] }
---
apiVersion: v1
kind: Node
metadata: { name: n2 }
status: { addresses: [{ type: InternalIP, address: 192.168.0.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: front-5d4f8c7b9-x2k4q, namespace: shop, labels: { app: front, pod-template-hash: 5d4f8c7b9 } }
spec: { nodeName: n1, containers: [{ name: c, image: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.1.1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: redis-0, namespace: shop, labels: { app: redis, statefulset.kubernetes.io/pod-name: redis-0 } }
spec: { nodeName: n2, containers: [{ name: c, image: c, ports: [{ name: redis, containerPort: 6379 }] }] }
status: { phase: Running, podIPs: [{ ip: 10.0.2.1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: redis-exporter, namespace: shop, labels: { app: redis, role: exporter } }
spec: { nodeName: n2, containers: [{ name: c, image: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.2.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: proxy, namespace: kube-system }
spec: { nodeName: n2, hostNetwork: true, containers: [{ name: c, image: c }] }
status: { phase: Running, podIPs: [{ ip: 192.168.0.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: coredns-6799fbcd5-b2b2b, namespace: kube-system, labels: { k8s-app: kube-dns, pod-template-hash: 6799fbcd5 } }
spec: { nodeName: n1, containers: [{ name: c, image: c }] }
status: { phase: Running, podIPs: [{ ip: 10.0.1.53 }] }
---
apiVersion: v1
kind: Service
metadata: { name: kube-dns, namespace: kube-system }
spec: { clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], selector: { k8s-app: kube-dns }, ports: [{ name: dns, port: 53, protocol: UDP }, { name: dns-tcp, port: 53, protocol: TCP }] }
---
apiVersion: v1
kind: Service
metadata: { name: redis, namespace: shop }
spec: { clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], selector: { app: redis }, ports: [{ port: 6000, targetPort: redis }] }
---
apiVersion: v1
kind: Service
metadata: { name: kubernetes, namespace: default }
spec: { clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{ name: https, port: 443, targetPort: 6443 }] }
";

fn seen_in_shop() -> Vec<Observed> {
    use Direction::{Egress, Ingress};
    use Transport::{Tcp, Udp};
    let front = "shop/front-5d4f8c7b9-x2k4q";
    let gone = Observed {
        peer: Some(ObjectName::new("shop", "front-5d4f8c7b9-zzzzz")),
        ..observed("shop/redis-0", Ingress, (Tcp, 6379), "10.0.1.77")
    };
    vec![
        observed(front, Egress, (Udp, 53), "10.96.0.10"),
        observed(front, Egress, (Udp, 53), "10.96.0.10"),
        observed(front, Egress, (Tcp, 6000), "10.96.0.20"),
        observed(front, Egress, (Tcp, 443), "10.96.0.1"),
        observed(front, Egress, (Tcp, 443), "203.0.113.4"),
        observed(front, Egress, (Tcp, 443), "203.0.113.5"),
        observed(front, Egress, (Tcp, 443), "198.51.100.7"),
        observed("shop/redis-0", Ingress, (Tcp, 6379), "10.0.1.1"),
        gone,
        // A probe of the kubelet, and connections of other nodes and of the pod itself.
        observed(front, Ingress, (Tcp, 8080), "192.168.0.1"),
        observed(front, Ingress, (Tcp, 8080), "192.168.0.2"),
        observed(front, Egress, (Tcp, 8080), "10.0.1.1"),
    ]
}

fn options() -> Options {
    Options {
        namespaces: [Arc::from("shop")].into(),
        blocks: vec!["198.51.0.0/16".parse().unwrap(), "198.51.100.0/24".parse().unwrap()],
        api_servers: vec!["192.168.0.9:6443".parse().unwrap()],
    }
}

#[test]
fn a_policy_names_workloads_services_nodes_and_blocks() {
    let cluster = cluster(&[SHOP]);
    let learned = learn(cluster.state(), &seen_in_shop(), &options());
    expect_file!["learned.yaml"].assert_eq(&learned.yaml(Mode::Audit));
}

#[test]
fn what_the_objects_do_not_tell_is_noted() {
    let cluster = cluster(&[SHOP]);
    let front = "shop/front-5d4f8c7b9-x2k4q";
    let gone = Observed {
        peer: Some(ObjectName::new("shop", "cart-0")),
        ..observed(front, Direction::Egress, (Transport::Tcp, 1), "10.0.1.78")
    };
    let all = [
        observed(front, Direction::Egress, (Transport::Tcp, 443), "10.96.0.1"),
        observed(front, Direction::Egress, (Transport::Tcp, 81), "10.96.0.20"),
        observed("shop/cart-0", Direction::Egress, (Transport::Tcp, 81), "10.96.0.20"),
        gone,
    ];
    let learned = learn(cluster.state(), &all, &Options::default());
    let notes: Vec<_> = learned.notes.iter().map(String::as_str).collect();
    expect![[r#"
        Service shop/redis has no backend for TCP 81
        pod shop/cart-0 is not among the objects
        pod shop/cart-0, a peer of shop/front-5d4f8c7b9-x2k4q, is not among the objects
        the addresses of the API server are not among the objects: state them with --api-server"#]]
    .assert_eq(&notes.join("\n"));
}

#[test]
fn verify_names_the_policies_that_would_drop_a_connection_once_they_are_enforced() {
    let yaml = learn(cluster(&[SHOP]).state(), &seen_in_shop(), &options()).yaml(Mode::Audit);
    let cluster = cluster(&[SHOP, &yaml]);
    assert_eq!(verify(cluster.state(), &seen_in_shop(), &options()), []);
    let other = observed("shop/redis-0", Direction::Ingress, (Transport::Tcp, 6380), "10.0.1.1");
    let found = verify(cluster.state(), [&other], &options());
    let ends: Vec<_> = found
        .iter()
        .map(|drop| format!("{} {} {}", drop.pod, drop.direction, drop.policies[0]))
        .collect();
    assert_eq!(
        ends,
        [
            "shop/front-5d4f8c7b9-x2k4q egress shop/learned-front",
            "shop/redis-0 ingress shop/learned-redis"
        ]
    );
}

/// Which addresses a cluster has.
#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn address(self, network: u8, host: usize) -> String {
        match self {
            Self::V4 => format!("10.{network}.{}.{}", host / 250, host % 250 + 1),
            Self::V6 => format!("fd00:{network}::{:x}", host + 1),
        }
    }
}

const PODS: u8 = 1;
const SERVICES: u8 = 2;
const NODES: u8 = 3;
const OUTSIDE: u8 = 4;

/// A workload: its namespace, which labels it has, and the number of its pods.
#[derive(Clone, Copy, Debug)]
struct Kind {
    namespace: usize,
    labels: usize,
    n_pods: usize,
}

#[derive(Clone, Debug)]
struct Shop {
    family: Family,
    kinds: Vec<Kind>,
    connections: Vec<(usize, usize, u16, Transport)>,
}

impl Shop {
    /// Namespace, labels and address of every pod, with its workload.
    fn pods(&self) -> Vec<(usize, String, IpAddr)> {
        let mut pods = Vec::new();
        for (workload, kind) in self.kinds.iter().enumerate() {
            for _ in 0..kind.n_pods {
                let number = pods.len();
                let letters = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m"];
                let suffix: String =
                    [number / 10 % 10, number % 10].iter().map(|n| letters[*n]).collect();
                let name = format!("ns{}/w{workload}-5d4f8c7b9-xyz{suffix}", kind.namespace);
                pods.push((
                    workload,
                    name.replace('y', "z"),
                    ip(&self.family.address(PODS, number)),
                ));
            }
        }
        pods
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for node in 0..2 {
            let address = self.family.address(NODES, node);
            writeln!(
                text,
                "---\n{{ apiVersion: v1, kind: Node, metadata: {{ name: n{node} }}, status: {{ addresses: [{{ type: InternalIP, address: '{address}' }}] }} }}"
            )
            .unwrap();
        }
        for (number, (workload, name, address)) in self.pods().iter().enumerate() {
            let (namespace, name) = name.split_once('/').unwrap();
            let labels = labels(*workload, self.kinds[*workload]);
            let node = number % 2;
            writeln!(
                text,
                "---\n{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, namespace: {namespace}, labels: {{ {labels}, pod-template-hash: x{number} }} }}, spec: {{ nodeName: n{node}, containers: [{{ name: c, image: c }}] }}, status: {{ phase: Running, podIPs: [{{ ip: '{address}' }}] }} }}"
            )
            .unwrap();
        }
        for (workload, kind) in self.kinds.iter().enumerate() {
            let address = self.family.address(SERVICES, workload);
            let labels = labels(workload, *kind);
            writeln!(
                text,
                "---\n{{ apiVersion: v1, kind: Service, metadata: {{ name: w{workload}, namespace: ns{} }}, spec: {{ clusterIP: '{address}', clusterIPs: ['{address}'], selector: {{ {labels} }}, ports: [{{ name: a, port: 80, targetPort: 8080 }}, {{ name: b, port: 81, protocol: UDP, targetPort: 8081 }}] }} }}",
                kind.namespace
            )
            .unwrap();
        }
        text
    }

    /// Everything that a connection can begin or end at: pods, then Services, nodes, and addresses outside.
    fn ends(&self) -> Vec<IpAddr> {
        let pods = self.pods();
        let mut ends: Vec<IpAddr> = pods.iter().map(|(_, _, address)| *address).collect();
        let of = |network, n| (0..n).map(move |host| ip(&self.family.address(network, host)));
        ends.extend(of(SERVICES, self.kinds.len()));
        ends.extend(of(NODES, 2));
        ends.extend(of(OUTSIDE, 6));
        ends
    }

    /// The recorded connections: source, destination and port. One without a pod, or from a Service, is none.
    fn recorded(&self) -> Vec<(IpAddr, IpAddr, u16, Transport)> {
        let ends = self.ends();
        let n_pods = self.pods().len();
        let is_service = |index: usize| (n_pods..n_pods + self.kinds.len()).contains(&index);
        let mut found = Vec::new();
        for (from, to, port, transport) in &self.connections {
            let (from, to) = (from % ends.len(), to % ends.len());
            let to_pod = to < n_pods || is_service(to);
            if is_service(from) || from == to || !(from < n_pods || to_pod && !is_service(to)) {
                continue;
            }
            let (port, transport) = match (is_service(to), transport) {
                (true, Transport::Udp) => (81, Transport::Udp),
                (true, _) => (80, Transport::Tcp),
                (false, transport) => (*port, *transport),
            };
            found.push((ends[from], ends[to], port, transport));
        }
        found
    }

    /// What the agents have recorded, at one end or at both.
    fn observed(&self) -> Vec<Observed> {
        let pods: BTreeMap<IpAddr, String> =
            self.pods().into_iter().map(|(_, name, address)| (address, name)).collect();
        let mut all = Vec::new();
        for (number, (from, to, port, transport)) in self.recorded().into_iter().enumerate() {
            let end = |pod: &str, direction, remote: IpAddr| {
                observed(pod, direction, (transport, port), &remote.to_string())
            };
            let source = pods.get(&from).map(|pod| end(pod, Direction::Egress, to));
            let destination = pods.get(&to).map(|pod| end(pod, Direction::Ingress, from));
            match (source, destination) {
                (Some(source), Some(_)) if number % 3 == 0 => all.push(source),
                (Some(_), Some(destination)) if number % 3 == 1 => all.push(destination),
                (source, destination) => all.extend(source.into_iter().chain(destination)),
            }
        }
        all
    }
}

/// Some workloads have all labels of another one and more.
fn labels(workload: usize, kind: Kind) -> String {
    match kind.labels {
        0 => format!("app: w{workload}"),
        1 => format!("app: shared, part: w{workload}"),
        2 => "app: shared".to_owned(),
        _ => format!("app.kubernetes.io/name: w{workload}, role: 'true'"),
    }
}

fn shops() -> impl Strategy<Value = Shop> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let kind = (0..3_usize, 0..4_usize, 1..4_usize).prop_map(|(namespace, labels, n_pods)| Kind {
        namespace,
        labels,
        n_pods,
    });
    let transport = prop_oneof![3 => Just(Transport::Tcp), 1 => Just(Transport::Udp)];
    let port = prop_oneof![Just(80_u16), Just(443), Just(8080), 8000..8005_u16, 1..u16::MAX];
    let connection = (0..100_usize, 0..100_usize, port, transport);
    (family, prop::collection::vec(kind, 3..9), prop::collection::vec(connection, 1..60))
        .prop_map(|(family, kinds, connections)| Shop { family, kinds, connections })
}

fn is_allowed(
    cluster: &mut Cluster,
    (from, to, port, transport): (IpAddr, IpAddr, u16, Transport),
) -> bool {
    let probe = Probe {
        from: PodOrIp::Address(from),
        to: PodOrIp::Address(to),
        port: PortChoice::Number(port),
        transport,
    };
    cluster.probe(&probe).unwrap().is_allowed
}

/// Connections of pods with pods and addresses outside that nobody has recorded: half of them between ends that never talked, half
/// between ends that talked on other ports. The pods of a workload are one end.
fn others(shop: &Shop, n: usize, rng: &mut TestRng) -> Vec<(IpAddr, IpAddr, u16, Transport)> {
    let pods = shop.pods();
    let end_of: BTreeMap<IpAddr, (usize, IpAddr)> = pods
        .iter()
        .map(|(workload, _, address)| {
            let Kind { namespace, labels, .. } = shop.kinds[*workload];
            // Pods with the same labels are of the same workload.
            let alike = |(_, kind): &(usize, &Kind)| {
                labels == 2 && kind.labels == 2 && kind.namespace == namespace
            };
            let first = shop.kinds.iter().enumerate().find(alike);
            let workload = first.map_or(*workload, |(first, _)| first);
            (*address, (workload, IpAddr::from([0; 4])))
        })
        .collect();
    let end = |address: IpAddr| end_of.get(&address).copied().unwrap_or((usize::MAX, address));
    let mut talked: BTreeMap<_, BTreeSet<(u16, Transport)>> = BTreeMap::new();
    for (from, to, port, transport) in shop.recorded() {
        let service =
            shop.ends()[pods.len()..][..shop.kinds.len()].iter().position(|end| *end == to);
        match service {
            None => {
                talked.entry((end(from), end(to))).or_default().insert((port, transport));
            }
            Some(service) => {
                let selector = shop.kinds[service];
                for (workload, _, address) in &pods {
                    let kind = shop.kinds[*workload];
                    let is_selected = workload == &service
                        || selector.labels == 2
                            && matches!(kind.labels, 1 | 2)
                            && kind.namespace == selector.namespace;
                    if is_selected {
                        let number = if transport == Transport::Udp { 8081 } else { 8080 };
                        talked
                            .entry((end(from), end(*address)))
                            .or_default()
                            .insert((number, transport));
                    }
                }
            }
        }
    }
    let outside: Vec<IpAddr> = shop.ends().into_iter().rev().take(6).collect();
    let ends: Vec<IpAddr> = pods.iter().map(|(_, _, address)| *address).chain(outside).collect();
    let pairs: Vec<(IpAddr, IpAddr)> = ends
        .iter()
        .flat_map(|from| ends.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to && (end_of.contains_key(from) || end_of.contains_key(to)))
        .collect();
    let (known, unknown): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(from, to)| talked.contains_key(&(end(*from), end(*to))));
    let mut found = Vec::new();
    for (pairs, n) in [(known, n / 2), (unknown, n / 2)] {
        if pairs.is_empty() {
            continue;
        }
        let mut n_left = n;
        while n_left > 0 {
            let (from, to) = pairs[rng.random_range(0..pairs.len())];
            let ports = [80, 443, 8080, 8081, 8002, rng.random_range(1..=u16::MAX)];
            let port = ports[rng.random_range(0..ports.len())];
            let transport =
                if rng.random_range(0..4) == 0 { Transport::Udp } else { Transport::Tcp };
            let is_recorded = talked
                .get(&(end(from), end(to)))
                .is_some_and(|ports| ports.contains(&(port, transport)));
            if !is_recorded {
                found.push((from, to, port, transport));
                n_left -= 1;
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_was_recorded_passes_and_nearly_everything_else_drops(
        shop in shops(),
        mut rng in any::<u64>().prop_perturb(|_, rng| rng),
    ) {
        let text = shop.text();
        let all = shop.observed();
        let state = cluster(&[&text]);
        let namespaces = shop.kinds.iter().map(|kind| Arc::from(format!("ns{}", kind.namespace)));
        let options = Options { namespaces: namespaces.collect(), ..Options::default() };
        let learned = learn(state.state(), &all, &options);
        prop_assert_eq!(&learned.notes, &BTreeSet::new());
        let yaml = learned.yaml(Mode::Enforce);
        let mut after = cluster(&[&text, &yaml]);
        for connection in shop.recorded() {
            prop_assert!(is_allowed(&mut after, connection), "{:?} drops by\n{}", connection, yaml);
        }
        prop_assert_eq!(verify(after.state(), &all, &options), Vec::new());
        let others = others(&shop, 10_000, &mut rng);
        let passing: Vec<_> =
            others.iter().filter(|other| is_allowed(&mut after, **other)).collect();
        prop_assert!(
            passing.len() * 20 <= others.len(),
            "{} of {} pass, such as {:?}, by\n{}", passing.len(), others.len(), passing[0], yaml
        );
        // Running it twice changes nothing, whether the policies are audited or enforced.
        for mode in [Mode::Audit, Mode::Enforce] {
            let with_policies = cluster(&[&text, &learned.yaml(mode)]);
            prop_assert_eq!(&learn(with_policies.state(), &all, &options), &learned);
        }
    }
}
