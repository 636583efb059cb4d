//! Namespaces, nodes, pods and Services.

use serde_json::{Map, Value, json};

use super::ports::{self, PORT_NAMES};
use super::{Draw as _, Rng, cluster_policies, policies, set};
use crate::case::Protocol;

/// Namespace names; few, so that objects interact.
pub(super) const NAMESPACES: [&str; 4] = ["x", "y", "z", "team-a"];
/// Label keys and values of pods and namespaces.
pub(super) const LABELS: [(&str, &[&str]); 4] = [
    ("app", &["web", "db", "api", ""]),
    ("tier", &["front", "back"]),
    ("example.com/role", &["client", "server", "0"]),
    ("env", &["prod", "dev"]),
];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// Last bytes of pod addresses: adjacent ones, and edges of blocks.
const HOSTS: [u8; 12] = [1, 2, 3, 4, 5, 7, 8, 63, 64, 127, 128, 254];

/// A cluster that can change.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Namespace objects.
    pub namespaces: Vec<Value>,
    /// Pods.
    pub pods: Vec<PodFacts>,
    /// `NetworkPolicy` objects.
    pub policies: Vec<Value>,
    /// `ClusterNetworkPolicy` objects.
    pub cluster_policies: Vec<Value>,
    /// Whether there may be such objects.
    pub has_tiers: bool,
    /// Nodes, Services.
    pub others: Vec<Value>,
    /// Number of pods made so far, from which creation times and uids follow.
    pub n_born: u32,
}

/// A pod's properties.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Its number in order of creation.
    pub born: u32,
    /// Whether it has a uid.
    pub has_uid: bool,
    /// `metadata.labels`.
    pub labels: Map<String, Value>,
    /// `spec.nodeName`.
    pub node: &'static str,
    /// `status.podIPs`.
    pub addresses: Vec<String>,
    /// `status.phase`, if set.
    pub phase: Option<&'static str>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `spec.containers`.
    pub containers: Vec<Value>,
    /// `spec.initContainers`.
    pub init_containers: Vec<Value>,
}

impl Cluster {
    /// A cluster of one to four namespaces.
    pub fn generate(rng: &mut Rng) -> Self {
        let n_namespaces = 1 + rng.usize(..NAMESPACES.len());
        let names = NAMESPACES.iter().take(n_namespaces);
        let mut cluster = Self {
            namespaces: Vec::new(),
            pods: Vec::new(),
            policies: Vec::new(),
            cluster_policies: Vec::new(),
            has_tiers: false,
            others: nodes(rng),
            n_born: 0,
        };
        for name in names {
            // A pod may be known before its Namespace object.
            if !rng.chance(3) {
                cluster.namespaces.push(namespace(rng, name));
            }
            for pod_name in ["a", "b", "c", "d"].into_iter().take(1 + rng.usize(..4)) {
                cluster.add_pod(rng, name, pod_name);
            }
            for index in 0..rng.one_of([0, 1, 1, 2, 3]) {
                let policy = policies::policy(rng, &cluster, name, &format!("p{index}"));
                cluster.policies.push(policy);
            }
        }
        if rng.chance(20) {
            cluster.others.push(service(rng));
        }
        cluster
    }

    /// The same with policies of the tiers Admin and Baseline, and with labels of nodes.
    pub fn generate_with_tiers(rng: &mut Rng) -> Self {
        let mut cluster = Self { has_tiers: true, ..Self::generate(rng) };
        for object in &mut cluster.others {
            if object.get("kind") == Some(&json!("Node")) {
                label_node(rng, object);
            }
        }
        for index in 0..rng.one_of([1, 2, 3, 4, 5]) {
            let policy = cluster_policies::cluster_policy(rng, &cluster, &format!("c{index}"));
            cluster.cluster_policies.push(policy);
        }
        cluster
    }

    /// Adds a pod of this name.
    pub fn add_pod(&mut self, rng: &mut Rng, namespace: &str, name: &str) {
        self.n_born += 1;
        let mut pod = PodFacts {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            born: self.n_born,
            has_uid: rng.chance(80),
            labels: labels(rng),
            node: rng.one_of(NODES),
            addresses: Vec::new(),
            phase: Some("Running"),
            host_network: false,
            terminating: false,
            containers: containers(rng),
            init_containers: Vec::new(),
        };
        pod.addresses = self.fresh_addresses(rng);
        match rng.usize(..40) {
            0 => pod.phase = Some("Succeeded"),
            1 => pod.phase = Some("Failed"),
            2 => pod.phase = Some("Pending"),
            3 => {
                pod.phase = Some("Pending");
                pod.addresses.clear();
            }
            4 => pod.phase = None,
            5 | 6 => pod.terminating = true,
            7 | 8 => {
                pod.host_network = true;
                pod.addresses = node_addresses(pod.node).into_iter().take(1).collect();
            }
            9 | 10 => self.reuse_address(rng, &mut pod),
            11..=13 => pod.init_containers = init_containers(rng),
            _ => {}
        }
        self.pods.push(pod);
    }

    /// Gives a pod the address of another one, which mostly has finished.
    fn reuse_address(&mut self, rng: &mut Rng, pod: &mut PodFacts) {
        let candidates: Vec<usize> = (0..self.pods.len())
            .filter(|index| {
                self.pods
                    .get(*index)
                    .is_some_and(|other| !other.host_network && !other.addresses.is_empty())
            })
            .collect();
        let Some(index) = rng.choice(&candidates) else { return };
        let Some(other) = self.pods.get_mut(*index) else { return };
        pod.addresses.clone_from(&other.addresses);
        if rng.chance(70) {
            other.phase = Some(rng.one_of(["Succeeded", "Failed"]));
        }
    }

    /// Unused addresses, of one or both families.
    pub fn fresh_addresses(&self, rng: &mut Rng) -> Vec<String> {
        let is_free =
            |candidate: &String| !self.pods.iter().any(|pod| pod.addresses.contains(candidate));
        let (mut v4, mut v6) = (None, None);
        for _ in 0..20 {
            let (subnet, host) = (rng.usize(..3), rng.one_of(HOSTS));
            v4 = v4.or(Some(format!("10.244.{subnet}.{host}")).filter(is_free));
            v6 = v6.or(Some(format!("fd00:10:244:{subnet}::{host:x}")).filter(is_free));
        }
        let families = match rng.usize(..20) {
            0..=9 => [v4, None],
            10..=15 => [v4, v6],
            16 => [v6, v4],
            _ => [v6, None],
        };
        families.into_iter().flatten().collect()
    }

    /// All objects, in random order.
    pub fn objects(&self, rng: &mut Rng) -> Vec<Value> {
        let mut objects: Vec<Value> = self.namespaces.clone();
        objects.extend(self.pods.iter().map(PodFacts::to_value));
        objects.extend(self.policies.iter().cloned());
        objects.extend(self.cluster_policies.iter().cloned());
        objects.extend(self.others.iter().cloned());
        rng.shuffle(&mut objects);
        objects
    }

    /// Names of the namespaces in which there are pods.
    pub fn inhabited(&self) -> Vec<String> {
        let mut names: Vec<String> = self.pods.iter().map(|pod| pod.namespace.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl PodFacts {
    /// The Pod object.
    pub fn to_value(&self) -> Value {
        let mut metadata = json!({
            "name": self.name, "namespace": self.namespace, "labels": self.labels,
            "creationTimestamp": format!("2026-01-{:02}T00:{:02}:{:02}Z",
                1 + self.born / 3600 % 28, self.born / 60 % 60, self.born % 60),
        });
        if self.has_uid {
            set(&mut metadata, "uid", json!(format!("uid-{}", self.born)));
        }
        if self.terminating {
            set(&mut metadata, "deletionTimestamp", json!("2026-02-01T00:00:00Z"));
        }
        let mut spec = json!({ "nodeName": self.node, "containers": self.containers });
        if self.host_network {
            set(&mut spec, "hostNetwork", json!(true));
        }
        if !self.init_containers.is_empty() {
            set(&mut spec, "initContainers", json!(self.init_containers));
        }
        let mut status = json!({});
        if let Some(phase) = self.phase {
            set(&mut status, "phase", json!(phase));
        }
        if let Some(first) = self.addresses.first() {
            let all: Vec<Value> = self.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
            set(&mut status, "podIP", json!(first));
            set(&mut status, "podIPs", json!(all));
        }
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status })
    }
}

/// Random labels of the vocabulary.
pub(super) fn labels(rng: &mut Rng) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, values) in LABELS {
        if rng.chance(60)
            && let Some(value) = rng.choice(values)
        {
            labels.insert(key.to_owned(), json!(value));
        }
    }
    labels
}

/// A namespace with labels.
pub(super) fn namespace(rng: &mut Rng, name: &str) -> Value {
    let mut labels = labels(rng);
    // The API server adds this label; offline input may lack it but cannot change its value.
    if rng.chance(70) {
        labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    }
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// Gives a node labels of the vocabulary of pods.
pub(super) fn label_node(rng: &mut Rng, node: &mut Value) {
    let labels = labels(rng);
    if let Some(metadata) = node.get_mut("metadata") {
        set(metadata, "labels", json!(labels));
    }
}

fn nodes(rng: &mut Rng) -> Vec<Value> {
    let node = |name: &&str| {
        let mut addresses = vec![json!({ "type": "Hostname", "address": name })];
        let types = ["InternalIP", "InternalIP", "ExternalIP"];
        for (address, kind) in node_addresses(name).iter().zip(types) {
            addresses.push(json!({ "type": kind, "address": address }));
        }
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "addresses": addresses },
        })
    };
    NODES.iter().filter(|_| rng.chance(80)).map(node).collect()
}

/// The addresses of a node.
pub(super) fn node_addresses(name: &str) -> Vec<String> {
    let number = name.rsplit('-').next().unwrap_or("1");
    vec![
        format!("192.168.7.{number}"),
        format!("fd00:192:168:7::{number}"),
        format!("203.0.113.{number}"),
    ]
}

/// The virtual address of every Service.
pub(super) const VIP: &str = "10.96.0.10";

fn service(rng: &mut Rng) -> Value {
    let mut ports = Vec::new();
    for number in [80, 53, 8080].into_iter().take(1 + rng.usize(..3)) {
        let mut port = json!({ "port": number, "name": format!("p{number}") });
        set(&mut port, "protocol", json!(rng.one_of(Protocol::ALL).as_str()));
        match rng.usize(..3) {
            0 => set(&mut port, "targetPort", json!(rng.one_of(PORT_NAMES))),
            1 => set(&mut port, "targetPort", json!(ports::number(rng))),
            _ => {}
        }
        ports.push(port);
    }
    let (key, values) = rng.one_of(LABELS);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "svc", "namespace": rng.one_of(NAMESPACES) },
        "spec": { "clusterIP": VIP, "clusterIPs": [VIP], "selector": { key: rng.choice(values) },
            "ports": ports },
    })
}

/// Containers with named and unnamed ports.
pub(super) fn containers(rng: &mut Rng) -> Vec<Value> {
    let n_containers = rng.one_of([1, 1, 1, 2]);
    (0..n_containers).map(|index| container(rng, &format!("c{index}"))).collect()
}

/// Init containers: sidecars, whose ports count, and others, whose ports do not.
fn init_containers(rng: &mut Rng) -> Vec<Value> {
    (0..=rng.usize(..2))
        .map(|index| {
            let mut container = container(rng, &format!("i{index}"));
            if rng.chance(60) {
                set(&mut container, "restartPolicy", json!("Always"));
            }
            container
        })
        .collect()
}

fn container(rng: &mut Rng, name: &str) -> Value {
    let mut ports = Vec::new();
    let mut names: Vec<&str> = PORT_NAMES.to_vec();
    rng.shuffle(&mut names);
    for port_name in names.into_iter().take(rng.usize(..4)) {
        let mut port = json!({ "containerPort": ports::number(rng) });
        if rng.chance(85) {
            set(&mut port, "name", json!(port_name));
        }
        if rng.chance(50) {
            set(&mut port, "protocol", json!(rng.one_of(Protocol::ALL).as_str()));
        }
        ports.push(port);
    }
    let mut container = json!({ "name": name, "image": "example" });
    if !ports.is_empty() {
        set(&mut container, "ports", json!(ports));
    }
    container
}
