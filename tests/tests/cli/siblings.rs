//! Generated inputs of the kinds on which `lint` once reported what was no mistake: parts of a cluster, DNS that another policy allows,
//! DNS pods that listen on another port, peers on the host's network.
#![expect(clippy::indexing_slicing, reason = "what is missing fails the test")]

use fastrand::Rng;
use netpol_lab::settings;
use serde_json::{Value, json};

use crate::output;

/// Inputs of each kind.
const N_INPUTS: usize = 300;

/// Names and values of which none is a misspelling of another.
const WORDS: [&str; 8] =
    ["payments", "kube-system", "monitoring", "ingress-nginx", "web", "billing", "dns", "team-red"];

fn word(rng: &mut Rng) -> &'static str {
    rng.choice(WORDS).unwrap_or("web")
}

/// Some of the items.
fn some<T>(rng: &mut Rng, items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().filter(|_| rng.bool()).collect()
}

fn object(kind: &str, name: &str, namespace: &str, spec: &Value) -> Value {
    let version = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "v1" };
    json!({
        "apiVersion": version, "kind": kind,
        "metadata": { "name": name, "namespace": namespace }, "spec": spec,
    })
}

fn policy(name: &str, namespace: &str, spec: &Value) -> Value {
    object("NetworkPolicy", name, namespace, spec)
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
}

/// A pod with labels and the spec of its node's side.
fn pod(name: &str, namespace: &str, labels: &Value, spec: &Value) -> Value {
    let mut pod = object("Pod", name, namespace, spec);
    pod["metadata"]["labels"] = labels.clone();
    pod
}

/// The objects in any order, as documents or as the items of a list.
fn text(rng: &mut Rng, mut objects: Vec<Value>) -> String {
    rng.shuffle(&mut objects);
    if rng.bool() {
        return json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    }
    let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
    documents.join("\n---\n")
}

/// The findings on an input: codes in the order of the lines.
fn codes(text: &str) -> Vec<String> {
    let found = output("netpol lint -f - -o json", text);
    let (_, found) = found.split_once('\n').unwrap();
    let found: Vec<Value> = serde_json::from_str(found).unwrap();
    found.iter().map(|found| found["code"].as_str().unwrap().to_owned()).collect()
}

/// Checks many inputs, each generated with the numbers of its own seed.
#[track_caller]
fn check(expected: impl Fn(&mut Rng) -> (Vec<Value>, &'static [&'static str])) {
    let seed = settings::seed();
    for n in 0..N_INPUTS as u64 {
        let mut rng = Rng::with_seed(seed.wrapping_add(n));
        let (objects, expected) = expected(&mut rng);
        let text = text(&mut rng, objects);
        assert_eq!(codes(&text), expected, "seed {seed} + {n}: {text}");
    }
}

/// A selector of namespaces that the input does not have.
fn absent_namespaces(rng: &mut Rng, existing: &[&str]) -> Value {
    let absent: Vec<&str> = WORDS.into_iter().filter(|word| !existing.contains(word)).collect();
    let absent = *rng.choice(&absent).unwrap();
    match rng.u8(..5) {
        0 => json!({ "matchLabels": { "kubernetes.io/metadata.name": absent } }),
        // A policy of the input may be there, which says nothing about the labels.
        1 => json!({ "matchLabels": { "name": absent } }),
        2 => json!({ "matchLabels": { "example.org/owner": word(rng) } }),
        3 => {
            json!({ "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "In", "values": [absent] }] })
        }
        _ => {
            json!({ "matchExpressions": [{ "key": "example.org/exposed", "operator": "Exists" }] })
        }
    }
}

/// Cases 03: the input contains a few namespaces, and policies in and about others.
#[test]
fn a_part_of_a_cluster_is_no_reason_for_a_finding() {
    check(|rng| {
        // Without the first word and without `default`, so that it is no whole cluster.
        let existing = some(rng, WORDS.into_iter().skip(1));
        let own_name =
            |name: &&str| namespace(name, &json!({ "kubernetes.io/metadata.name": name }));
        let mut objects: Vec<Value> = existing.iter().map(own_name).collect();
        for n in 0..rng.usize(1..4) {
            let mut peer = json!({ "namespaceSelector": absent_namespaces(rng, &existing) });
            if rng.bool() {
                peer["podSelector"] = json!({ "matchLabels": { "app": word(rng) } });
            }
            let rule = json!({ "from": [peer], "ports": [{ "port": 8000 + n }] });
            let spec = json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule] });
            objects.push(policy(&format!("p{n}"), word(rng), &spec));
        }
        (objects, &[])
    });
}

/// A selector that may select a namespace, if it has the right labels, or that selects namespaces outside the input too.
fn uncertain(rng: &mut Rng, namespace: &str) -> Value {
    let expression = |key: &str, operator: &str, values: &[&str]| {
        let mut expression = json!({ "key": key, "operator": operator });
        if !values.is_empty() {
            expression["values"] = json!(values);
        }
        json!({ "matchExpressions": [expression] })
    };
    let name = "kubernetes.io/metadata.name";
    match rng.u8(..8) {
        0 => json!({ "matchLabels": { "name": namespace } }),
        1 => expression("name", "In", &["elsewhere", namespace]),
        2 => expression("environment", "NotIn", &["production"]),
        3 => expression("environment", "DoesNotExist", &[]),
        4 => expression("environment", "Exists", &[]),
        5 => expression(name, "NotIn", &["elsewhere"]),
        6 => expression(name, "In", &["elsewhere", namespace]),
        _ => json!({ "matchLabels": { name: "elsewhere" } }),
    }
}

/// Cases 03: of a namespace without its object no label but its name is known.
#[test]
fn unknown_labels_of_a_namespace_are_no_reason_for_a_finding() {
    check(|rng| {
        let namespace = word(rng);
        let mut objects = vec![pod("p", namespace, &json!({ "app": "web" }), &json!({}))];
        for n in 0..rng.usize(1..4) {
            let mut peer = json!({ "namespaceSelector": uncertain(rng, namespace) });
            if rng.bool() {
                peer["podSelector"] = json!({ "matchLabels": { "app": "scraper" } });
            }
            let rule = json!({ "from": [peer], "ports": [{ "port": 8000 + n }] });
            let spec = json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [rule] });
            objects.push(policy(&format!("p{n}"), word(rng), &spec));
        }
        (objects, &[])
    });
}

/// Ports that include that of DNS.
fn dns_ports(rng: &mut Rng, number: u16) -> Value {
    match rng.u8(..4) {
        0 => json!([{ "protocol": "UDP", "port": number }, { "port": number }]),
        1 => json!([{ "port": number }, { "protocol": "UDP", "port": number }, { "port": 443 }]),
        2 => {
            let range = json!({ "protocol": "UDP", "port": number - 3, "endPort": number + 3 });
            json!([range, { "protocol": "TCP", "port": number }])
        }
        _ => json!([{ "protocol": "UDP" }, { "protocol": "TCP" }]),
    }
}

/// Destinations that include the DNS pods, or everything.
fn dns_peers(rng: &mut Rng) -> Value {
    let name = if rng.bool() { "kube-system" } else { "openshift-dns" };
    match rng.u8(..4) {
        0 => {
            json!([{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } }])
        }
        1 => {
            json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "k8s-app": "kube-dns" } } }])
        }
        2 => json!([{ "namespaceSelector": {} }]),
        _ => json!([]),
    }
}

/// A selector that includes the pods with these labels, and only by them.
fn wider(rng: &mut Rng, labels: &Value) -> Value {
    let mut expressions = Vec::new();
    let mut equal = json!({});
    for (key, value) in labels.as_object().unwrap() {
        let other = rng.choice(["other", "another"]).unwrap();
        match rng.u8(..7) {
            0 => equal[key] = value.clone(),
            1 => expressions.push(json!({ "key": key, "operator": "In", "values": [value] })),
            2 => {
                expressions.push(json!({ "key": key, "operator": "In", "values": [value, other] }));
            }
            3 => expressions.push(json!({ "key": key, "operator": "NotIn", "values": [other] })),
            4 => expressions.push(json!({ "key": key, "operator": "Exists" })),
            _ => {}
        }
    }
    json!({ "matchLabels": equal, "matchExpressions": expressions })
}

/// A selector of the pods with these labels, expressed in one of the ways.
fn equivalent(rng: &mut Rng, labels: &Value) -> Value {
    if rng.bool() {
        return json!({ "matchLabels": labels });
    }
    let labels = labels.as_object().unwrap();
    let expressions: Vec<Value> = labels
        .iter()
        .map(|(key, value)| json!({ "key": key, "operator": "In", "values": [value] }))
        .collect();
    json!({ "matchExpressions": expressions })
}

/// Cases 04: the policies that select the same pods allow DNS.
#[test]
fn dns_that_a_companion_allows_is_no_finding() {
    check(|rng| {
        let labels = json!({ "app": word(rng), "tier": "backend" });
        let api = json!({
            "podSelector": equivalent(rng, &labels), "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": word(rng) } } }], "ports": [{ "port": 5432 }] }],
        });
        let dns = json!({
            "podSelector": wider(rng, &labels), "policyTypes": ["Egress"],
            "egress": [{ "to": dns_peers(rng), "ports": dns_ports(rng, 53) }],
        });
        let shop = word(rng);
        (vec![policy("api", shop, &api), policy("dns", shop, &dns)], &[])
    });
}

/// A companion that selects only some of the pods, by whatever operator, leaves the others without DNS.
#[test]
fn dns_that_a_companion_allows_to_some_pods_is_a_finding() {
    check(|rng| {
        let app = word(rng);
        let narrower = match rng.u8(..6) {
            0 => json!({ "key": "app", "operator": "In", "values": ["other", "another"] }),
            1 => json!({ "key": "app", "operator": "NotIn", "values": [app] }),
            2 => json!({ "key": "app", "operator": "DoesNotExist" }),
            3 => json!({ "key": "tier", "operator": "Exists" }),
            4 => json!({ "key": "tier", "operator": "NotIn", "values": ["backend"] }),
            _ => json!({ "key": "tier", "operator": "In", "values": [app] }),
        };
        let api = json!({
            "podSelector": { "matchLabels": { "app": app } }, "policyTypes": ["Egress"],
            "egress": [{ "ports": [{ "port": 5432 }] }],
        });
        let dns = json!({
            "podSelector": { "matchExpressions": [narrower] }, "policyTypes": ["Egress"],
            "egress": [{ "to": dns_peers(rng), "ports": dns_ports(rng, 53) }],
        });
        let shop = word(rng);
        (vec![policy("api", shop, &api), policy("dns", shop, &dns)], &["NP020"])
    });
}

/// Cases 05: DNS pods that listen on 5353 are judged there, after DNAT.
#[test]
fn dns_on_the_port_of_its_pods_is_no_finding() {
    check(|rng| {
        let labels = json!({ "app": word(rng) });
        let spec = json!({
            "podSelector": wider(rng, &labels), "policyTypes": ["Egress"],
            "egress": [{ "to": dns_peers(rng), "ports": dns_ports(rng, 5353) }],
        });
        let mut objects = vec![policy("dns", word(rng), &spec)];
        if rng.bool() {
            objects.push(namespace(
                "openshift-dns",
                &json!({ "kubernetes.io/metadata.name": "openshift-dns" }),
            ));
        }
        (objects, &[])
    });
}

/// Cases 09: a peer that selects only pods on the host's network is one finding, which says so; any other pod makes it none.
#[test]
fn a_peer_on_the_hosts_network_is_one_finding_with_its_reason() {
    check(|rng| {
        let system = word(rng);
        let labels = json!({ "component": "server" });
        let on_host = |n: usize| {
            let spec = json!({ "nodeName": format!("n{n}"), "hostNetwork": true });
            pod(&format!("server-{n}"), system, &labels, &spec)
        };
        let n_on_host = rng.usize(1..4);
        let mut objects: Vec<Value> = (0..n_on_host).map(on_host).collect();
        let is_mixed = rng.bool();
        if is_mixed {
            objects.push(pod("server", system, &labels, &json!({ "nodeName": "n1" })));
        }
        objects.push(namespace(system, &json!({ "kubernetes.io/metadata.name": system })));
        let peer = json!({
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": system } },
            "podSelector": { "matchLabels": labels },
        });
        let spec = json!({
            "podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [{ "from": [peer], "ports": [{ "port": 10_250 }] }],
        });
        objects.push(pod("hook", "other", &json!({ "app": "hook" }), &json!({})));
        objects.push(policy("hook", "other", &spec));
        (objects, if is_mixed { &[] } else { &["NP008"] })
    });
}
