//! Connections of pods to their own node, where they need a rule: the reference and the compiled maps give these verdicts.

use super::{Cluster, Engine, PodOrIp, PortChoice, Probe, explain};
use crate::manifests::parse;
use crate::model::{Object, Transport};
use crate::store::{Delta, OwnNodeEgress};

/// Two nodes. On `n1`: `client`, `web` with a host port, and `ingress` on the host's network.
const OBJECTS: &str = r"
{ apiVersion: v1, kind: Node, metadata: { name: n1 }, status: { addresses: [{ type: InternalIP, address: 192.168.0.1 }] } }
---
{ apiVersion: v1, kind: Node, metadata: { name: n2 }, status: { addresses: [{ type: InternalIP, address: 192.168.0.2 }] } }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: x, labels: { app: client } }
spec: { nodeName: n1 }
status: { phase: Running, podIP: 10.0.0.1 }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: x, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: c, ports: [{ containerPort: 80, hostPort: 8080 }] }] }
status: { phase: Running, podIP: 10.0.0.2 }
---
apiVersion: v1
kind: Pod
metadata: { name: far, namespace: x, labels: { app: far } }
spec: { nodeName: n2, containers: [{ name: c, ports: [{ containerPort: 80, hostPort: 9090 }] }] }
status: { phase: Running, podIP: 10.0.1.2 }
---
apiVersion: v1
kind: Pod
metadata: { name: ingress, namespace: x, labels: { app: ingress } }
spec:
  nodeName: n1
  hostNetwork: true
  containers: [{ name: c, ports: [{ containerPort: 8443, hostPort: 8443 }] }]
status: { phase: Running, podIP: 192.168.0.1 }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: x }
spec: { type: NodePort, selector: { app: web }, clusterIP: 10.96.0.1, ports: [{ port: 80, nodePort: 30001 }] }
---
apiVersion: v1
kind: Service
metadata: { name: ingress, namespace: x }
spec: { type: NodePort, selector: { app: ingress }, clusterIP: 10.96.0.2, ports: [{ port: 443, targetPort: 8443, nodePort: 30002 }] }
---
apiVersion: v1
kind: Service
metadata: { name: api, namespace: x }
spec: { clusterIP: 10.96.0.3, ports: [{ name: https, port: 443 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: api, namespace: x, labels: { kubernetes.io/service-name: api } }
endpoints: [{ addresses: [192.168.0.1, 192.168.0.2] }]
ports: [{ name: https, port: 6443 }]
";

/// A policy that lets `client` reach what these rules say.
fn policy(rules: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: client, namespace: x }}\nspec:\n  \
         podSelector: {{ matchLabels: {{ app: client }} }}\n  policyTypes: [Ingress, Egress]\n  egress: {rules}\n"
    )
}

fn cluster(engine: Engine, egress: OwnNodeEgress, more: &str) -> Cluster {
    let objects = parse("x", &format!("{OBJECTS}{more}")).objects.into_iter();
    let mut cluster = Cluster::new(engine).with_own_node_egress(egress);
    cluster.set(objects.map(|read| read.object).collect::<Vec<Object>>()).unwrap();
    cluster
}

fn probe(from: &str, to: &str, port: u16) -> Probe {
    Probe {
        from: from.parse().unwrap(),
        to: PodOrIp::Address(to.parse().unwrap()),
        port: PortChoice::Number(port),
        transport: Transport::Tcp,
    }
}

#[track_caller]
fn check(more: &str, expected: &[(&str, &str, u16, bool)]) {
    let engines = [Engine::Reference, Engine::compiled()];
    for mut cluster in engines.map(|engine| cluster(engine, OwnNodeEgress::Judge, more)) {
        for (from, to, port, passes) in expected {
            let probe = probe(from, to, *port);
            let name = format!("{from} to {to}:{port} with {more}");
            assert_eq!(cluster.probe(&probe).unwrap().is_allowed, *passes, "{name}");
            let explanation = explain(cluster.state(), &probe, [], |_, _| false);
            if explanation.problem.is_none() {
                assert_eq!(explanation.is_allowed, *passes, "{name}");
            }
        }
    }
}

#[test]
fn without_a_rule_a_pod_reaches_nothing_of_its_node_and_the_node_reaches_the_pod() {
    check(
        &policy("[]"),
        &[
            ("x/client", "192.168.0.1", 22, false),
            ("x/client", "192.168.0.1", 30_001, false),
            ("x/client", "192.168.0.1", 30_002, false),
            ("x/client", "192.168.0.1", 8080, false),
            ("x/client", "192.168.0.1", 8443, false),
            ("x/client", "10.96.0.2", 443, false),
            ("x/client", "10.96.0.3", 443, false),
            ("192.168.0.1", "10.0.0.1", 80, true),
            ("192.168.0.2", "10.0.0.1", 80, false),
            // No policy isolates it.
            ("x/web", "192.168.0.1", 22, true),
            ("x/web", "10.96.0.3", 443, true),
        ],
    );
    let mut allowed = cluster(Engine::compiled(), OwnNodeEgress::Allow, &policy("[]"));
    assert!(allowed.probe(&probe("x/client", "192.168.0.1", 22)).unwrap().is_allowed);
}

#[test]
fn a_block_allows_the_node_and_what_the_node_translates_is_judged_on_the_pod() {
    check(
        &policy("[{ to: [{ ipBlock: { cidr: 192.168.0.1/32 } }] }]"),
        &[
            ("x/client", "192.168.0.1", 22, true),
            // A host-network pod declares its ports as host ports, which nothing translates.
            ("x/client", "192.168.0.1", 8443, true),
            ("x/client", "192.168.0.2", 22, false),
            ("x/client", "192.168.0.1", 8080, false),
            ("x/client", "192.168.0.1", 30_001, false),
            // The host port of a pod of another node is a port of this node like any other.
            ("x/client", "192.168.0.1", 9090, true),
            // The node port leads to the node's own network.
            ("x/client", "192.168.0.1", 30_002, true),
            ("x/client", "10.96.0.2", 443, true),
            // One of its backends is another node.
            ("x/client", "10.96.0.3", 443, false),
        ],
    );
    let web = "[{ to: [{ podSelector: { matchLabels: { app: web } } }] }]";
    check(
        &policy(web),
        &[
            ("x/client", "192.168.0.1", 8080, true),
            ("x/client", "192.168.0.1", 30_001, true),
            ("x/client", "10.96.0.1", 80, true),
            ("x/client", "192.168.0.1", 30_002, false),
            ("x/client", "192.168.0.1", 8443, false),
        ],
    );
    let both = "[{ to: [{ ipBlock: { cidr: 192.168.0.0/24 } }], ports: [{ port: 6443 }] }]";
    check(
        &policy(both),
        &[
            ("x/client", "10.96.0.3", 443, true),
            ("x/client", "192.168.0.1", 6443, true),
            ("x/client", "192.168.0.1", 443, false),
            ("x/client", "10.96.0.2", 443, false),
        ],
    );
}

#[test]
fn tiers_decide_about_the_own_node_in_their_order() {
    let tier = |name: &str, tier: &str, action: &str| {
        format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{ name: {name} }}\nspec:\n  \
             tier: {tier}\n  priority: 1\n  subject: {{ namespaces: {{}} }}\n  egress: [{{ action: {action}, to: [{{ nodes: {{}} }}] }}]\n"
        )
    };
    let to = |node| [("x/client", "192.168.0.1", 22, node), ("x/client", "10.96.0.2", 443, node)];
    check(&format!("{}{}", policy("[]"), tier("a", "Admin", "Accept")), &to(true));
    check(&format!("{}{}", policy("[{}]"), tier("a", "Admin", "Deny")), &to(false));
    check(&format!("{}{}", policy("[]"), tier("a", "Admin", "Pass")), &to(false));
    check(&tier("b", "Baseline", "Deny"), &to(false));
    check(&format!("{}{}", policy("[{}]"), tier("b", "Baseline", "Deny")), &to(true));
}

#[test]
fn a_service_whose_backends_are_not_known_needs_a_rule_for_every_address() {
    let objects = "---\napiVersion: v1\nkind: Service\nmetadata: { name: unknown, namespace: x }\nspec: { clusterIP: 10.96.0.9, ports: [{ port: 443 }] }\n";
    for (rules, passes) in [
        ("[{ to: [{ ipBlock: { cidr: 0.0.0.0/0 } }] }]", false),
        ("[{ ports: [{ port: 443 }] }]", true),
    ] {
        check(&format!("{objects}{}", policy(rules)), &[("x/client", "10.96.0.9", 443, passes)]);
    }
}

#[test]
fn a_host_network_pod_that_comes_or_goes_changes_what_a_service_needs() {
    let rules = "[{ to: [{ podSelector: { matchLabels: { app: web } } }] }]";
    let mut cluster = cluster(Engine::compiled(), OwnNodeEgress::Judge, &policy(rules));
    let to_web = probe("x/client", "10.96.0.1", 80);
    assert!(cluster.probe(&to_web).unwrap().is_allowed);
    let other = "apiVersion: v1\nkind: Pod\nmetadata: { name: other, namespace: x, labels: { app: web } }\n\
        spec: { nodeName: n1, hostNetwork: true }\nstatus: { phase: Running, podIP: 192.168.0.1 }\n";
    let pod = parse("x", other).objects.remove(0).object;
    let object = pod.object_ref();
    cluster.apply([Delta::Upsert(pod)]).unwrap();
    assert!(!cluster.probe(&to_web).unwrap().is_allowed);
    cluster.apply([Delta::Remove { object, uid: None }]).unwrap();
    assert!(cluster.probe(&to_web).unwrap().is_allowed);
}
