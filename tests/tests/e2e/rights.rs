//! The agent's permissions: all that it needs, and no others.

use std::collections::BTreeSet;

use netpol_lab::cluster::{Able, Cluster, Rules};
use netpol_lab::watched::{Watched, policy};
use netpol_policy::model::{Kind, ObjectName, ObjectRef};
use netpol_policy::source::Health;
use serde_json::{Value, json};

#[tokio::test]
async fn a_kind_that_is_forbidden_is_told_with_what_is_missing_and_the_others_go_on() {
    let mut watched = Watched::filled().await;
    watched.cluster.restrict(Rules::Without(Kind::NetworkPolicy)).await.unwrap();
    watched.cluster.break_connections();
    watched.until("the refusal is reported", |w| w.errors.iter().any(|e| e.contains("403"))).await;
    let error = watched.errors.iter().find(|error| error.contains("403")).unwrap();
    assert!(error.starts_with("NetworkPolicy: "), "{error}");
    assert!(error.contains("forbidden") && error.contains("networkpolicies"), "{error}");
    assert_eq!(watched.policy_names(), ["deny"], "the last state is lost");
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;

    watched.cluster.restrict(Rules::Deployed).await.unwrap();
    watched.put(policy(&watched.namespace, "more")).await;
    watched.until("the policy is there", |w| w.policy_names() == ["deny", "more"]).await;
    let health = watched.freshness.of(Kind::NetworkPolicy);
    assert!(matches!(health, Health::Synced { .. }), "{health:?}");
}

#[tokio::test]
async fn the_account_may_do_exactly_what_its_role_says() {
    let cluster = Cluster::open().await.unwrap();
    let Some(granted) = cluster.granted().await.unwrap() else { return };
    let expected = [
        ("networking.k8s.io", "networkpolicies", "list"),
        ("networking.k8s.io", "networkpolicies", "watch"),
        ("", "namespaces", "list"),
        ("", "namespaces", "watch"),
        ("", "services", "list"),
        ("", "services", "watch"),
        ("", "nodes", "list"),
        ("", "nodes", "watch"),
        ("", "pods", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("events.k8s.io", "events", "create"),
    ];
    let expected = expected
        .map(|(group, resource, verb)| (group.to_owned(), resource.to_owned(), verb.to_owned()));
    assert_eq!(granted, BTreeSet::from(expected));
}

#[tokio::test]
async fn nothing_but_reading_and_events_is_let_through() {
    let cluster = Cluster::open().await.unwrap();
    let namespace = cluster.name("netpol");
    let bodies: [(&str, String, Value); 6] = [
        ("GET", format!("/api/v1/namespaces/{namespace}/secrets"), Value::Null),
        ("GET", "/api/v1/configmaps".to_owned(), Value::Null),
        ("GET", format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"), Value::Null),
        ("DELETE", format!("/api/v1/namespaces/{namespace}/pods/any"), Value::Null),
        (
            "POST",
            format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies?dryRun=All"),
            policy(&namespace, "own"),
        ),
        (
            "POST",
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/netpol-agent/token"),
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} }),
        ),
    ];
    for (method, path, body) in bodies {
        let Some(status) = cluster.refusal_of_agent(method, &path, &body).await.unwrap() else {
            return;
        };
        assert_eq!(status, 403, "{method} {path}");
    }
}

#[tokio::test]
async fn the_server_refused_nothing_that_the_watches_asked_for() {
    let mut watched = Watched::filled().await;
    let user = watched.cluster.user();
    let Some(plane) = watched.cluster.as_started() else { return };
    let asked = plane.asked(&user.unwrap()).unwrap();
    assert!(!asked.is_empty());
    for event in &asked {
        let code = event.pointer("/responseStatus/code").and_then(Value::as_u64);
        assert_eq!(code, Some(200), "{event}");
    }
}

#[tokio::test]
async fn a_stored_policy_that_no_server_would_take_today_still_isolates_and_is_reported() {
    let mut watched = Watched::filled().await;
    let mut odd = policy(&watched.namespace, "odd");
    odd["metadata"]["uid"] = json!("6a1ba2a5-7d7b-4b25-bd1c-a2e5c8a0a001");
    odd["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    odd["spec"]["ingress"] = json!([
        { "ports": [{ "port": "no port name!" }] },
        { "from": [{ "ipBlock": { "cidr": "10.0.0.0/33" } }] },
    ]);
    if watched.cluster.put_unchecked(odd).await.unwrap() == Able::No {
        return;
    }
    watched.until("the policy is there", |w| w.policy_names() == ["deny", "odd"]).await;
    let name = ObjectName::new(&watched.namespace, "odd");
    let policy = watched.state.policy(&name).unwrap();
    assert!(policy.policy_types.ingress);
    let found = watched.diagnostics.of(&ObjectRef { kind: Kind::NetworkPolicy, name });
    assert_eq!(found.len(), 2, "{found:?}");
}
