//! Objects as an API server sends them, including the fields that the agent does not read.

use netpol_policy::model::{
    Labels, Namespace, NamespaceMatch, Peer, Peers, Pod, Policy, PortSpec, Ports, Requirement,
    Rule, Selector,
};
use serde_json::{Map, Value, json};

/// A pod: about three kilobytes.
pub fn pod(pod: &Pod) -> Value {
    let ips: Vec<Value> = pod.reported_addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|port| {
            let name = port.name.as_ref().map(|name| name.0.to_string());
            json!({ "name": name, "containerPort": port.number, "protocol": port.transport })
        })
        .collect();
    let env = |name: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": "settings", "key": name } } });
    let condition = |name: &str| {
        json!({
            "type": name, "status": "True", "observedGeneration": 1, "lastProbeTime": null,
            "lastTransitionTime": "2026-11-21T08:00:00Z",
        })
    };
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pod.name.namespace,
            "name": pod.name.name,
            "uid": pod.uid,
            "labels": labels(&pod.labels),
            "annotations": { "example.com/checksum": "5f3c2a9d0b7e4c1f8a6d5f3c2a9d0b7e4c1f8a6d5f3c2a9d0b7e4c1f8a6d5f3c" },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-7c9d8b5f6d", "controller": true,
                "blockOwnerDeletion": true, "uid": "11111111-2222-4333-8444-555555555555",
            }],
            "managedFields": [{
                "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-11-21T08:00:00Z",
                "fieldsType": "FieldsV1", "subresource": "status",
                "fieldsV1": { "f:status": { "f:conditions": { "k:{\"type\":\"Ready\"}": {
                    ".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {} } },
                    "f:containerStatuses": {}, "f:hostIP": {}, "f:phase": {}, "f:podIP": {}, "f:startTime": {} } },
            }],
        },
        "spec": {
            "nodeName": pod.node,
            "hostNetwork": pod.host_network,
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "app", "image": "registry.example.com/team/app:1.2.3", "imagePullPolicy": "IfNotPresent",
                "ports": ports, "env": [env("user"), env("password"), env("token")],
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
                "volumeMounts": [{ "name": "kube-api-access", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }],
                "livenessProbe": { "httpGet": { "path": "/healthz", "port": 8080, "scheme": "HTTP" },
                    "periodSeconds": 10, "failureThreshold": 3, "successThreshold": 1, "timeoutSeconds": 1 },
            }],
            "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300 }],
        },
        "status": {
            "phase": pod.phase,
            "podIP": pod.reported_addresses.first(),
            "podIPs": ips,
            "hostIP": "192.0.2.7",
            "startTime": "2026-11-21T08:00:00Z",
            "conditions": conditions,
            "containerStatuses": [{
                "name": "app", "ready": true, "started": true, "restartCount": 0,
                "image": "registry.example.com/team/app:1.2.3",
                "imageID": "registry.example.com/team/app@sha256:5f3c2a9d0b7e4c1f8a6d5f3c2a9d0b7e4c1f8a6d",
                "containerID": "containerd://5f3c2a9d0b7e4c1f8a6d5f3c2a9d0b7e4c1f8a6d5f3c2a9d0b7e4c1f8a6d5f3c",
                "state": { "running": { "startedAt": "2026-11-21T08:00:00Z" } },
            }],
        },
    })
}

/// A namespace.
pub fn namespace(namespace: &Namespace) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": namespace.name, "labels": labels(&namespace.labels) },
    })
}

/// A policy.
pub fn policy(policy: &Policy) -> Value {
    let types = policy.policy_types;
    let mut names = Vec::new();
    names.extend(types.ingress.then_some("Ingress"));
    names.extend(types.egress.then_some("Egress"));
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": policy.name.namespace, "name": policy.name.name, "uid": policy.uid },
        "spec": {
            "podSelector": selector(&policy.pod_selector),
            "policyTypes": names,
            "ingress": policy.ingress.iter().map(|of| rule(of, "from")).collect::<Vec<_>>(),
            "egress": policy.egress.iter().map(|of| rule(of, "to")).collect::<Vec<_>>(),
        },
    })
}

fn labels(labels: &Labels) -> Value {
    let pairs = labels.iter().map(|(key, value)| (key.to_string(), json!(value)));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn selector(selector: &Selector) -> Value {
    let expression = |requirement: &Requirement| match requirement {
        Requirement::In(key, values) => json!({ "key": key, "operator": "In", "values": values }),
        Requirement::NotIn(key, values) => {
            json!({ "key": key, "operator": "NotIn", "values": values })
        }
        Requirement::Exists(key) => json!({ "key": key, "operator": "Exists" }),
        Requirement::DoesNotExist(key) => json!({ "key": key, "operator": "DoesNotExist" }),
    };
    json!({ "matchExpressions": selector.requirements().map(expression).collect::<Vec<_>>() })
}

fn rule(rule: &Rule, field: &str) -> Value {
    let peer = |peer: &Peer| match peer {
        Peer::Nodes(nodes) => json!({ "nodes": selector(nodes) }),
        Peer::IpBlock(block) => {
            json!({ "ipBlock": { "cidr": block.cidr, "except": block.except } })
        }
        Peer::Pods { namespaces: NamespaceMatch::Own, pods } => {
            json!({ "podSelector": selector(pods) })
        }
        Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods } => {
            json!({ "namespaceSelector": selector(namespaces), "podSelector": selector(pods) })
        }
    };
    let mut object = Map::new();
    if let Peers::AnyOf(peers) = &rule.peers {
        object.insert(field.to_owned(), peers.iter().map(peer).collect());
    }
    if let Ports::AnyOf(ports) = &rule.ports {
        let port = |port: &netpol_policy::model::PortMatch| match &port.ports {
            PortSpec::Any => json!({ "protocol": port.transport }),
            PortSpec::Range(range) => {
                json!({ "protocol": port.transport, "port": range.first(), "endPort": range.last() })
            }
            PortSpec::Named(name) => json!({ "protocol": port.transport, "port": *name.0 }),
        };
        object.insert("ports".to_owned(), ports.iter().map(port).collect());
    }
    Value::Object(object)
}
