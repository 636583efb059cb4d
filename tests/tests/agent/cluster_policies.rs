//! ClusterNetworkPolicies: a kind that the server may not have, get, lose, or serve in another version.

use std::time::Duration;

use http::StatusCode;
use netpol_kube::Options;
use netpol_lab::fake_api::FakeApi;
use netpol_lab::watched::{Watched, filled};
use netpol_policy::model::Kind;
use netpol_policy::source::Health;
use serde_json::{Value, json};

const KIND: Kind = Kind::ClusterNetworkPolicy;
const V1ALPHA2: &[&str] = &["v1alpha2"];

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name },
        "spec": {
            "tier": "Admin", "priority": 10, "subject": { "namespaces": {} },
            "ingress": [{ "action": "Deny", "from": [{ "namespaces": {} }] }],
        },
    })
}

fn options() -> Options {
    Options {
        discovery_period: Duration::from_millis(50),
        discovery_patience: Duration::from_millis(200),
        ..Options::default()
    }
}

/// A server with a policy.
async fn server(versions: &[&'static str]) -> FakeApi {
    let api = filled().await;
    assert!(api.put(policy("deny")).is_some());
    api.serve_cluster_policies(versions);
    api
}

fn names(watched: &Watched) -> Vec<String> {
    watched.state.cluster_policies().map(|policy| policy.name.to_string()).collect()
}

async fn until_names(watched: &mut Watched, expected: &[&str]) {
    let what = format!("the policies are {expected:?}");
    watched.until(&what, |w| names(w) == expected).await;
}

#[tokio::test]
async fn a_server_without_the_kind_is_asked_again_and_nothing_waits_for_it() {
    let mut watched = Watched::in_process(server(&[]).await, options()).await;
    watched.until_listed().await;
    let is_unserved = |w: &Watched| *w.freshness.of(KIND) == Health::Unserved;
    watched.until("the kind is known to be missing", is_unserved).await;
    assert!(watched.freshness.missing().is_empty());
    assert!(!watched.freshness.kinds().contains(&KIND));
    assert!(watched.errors.is_empty(), "{:?}", watched.errors);

    watched.api().serve_cluster_policies(V1ALPHA2);
    until_names(&mut watched, &["deny"]).await;
    assert!(watched.freshness.missing().is_empty());
    watched.put(policy("later")).await;
    until_names(&mut watched, &["deny", "later"]).await;
}

#[tokio::test]
async fn a_role_that_is_older_than_the_agent_holds_nothing_up() {
    let api = server(V1ALPHA2).await;
    api.forbid(Some(KIND));
    let mut watched = Watched::in_process(api, options()).await;
    watched.until("the rest goes on", |w| w.freshness.missing().is_empty()).await;
    let is_broken = |w: &Watched| matches!(w.freshness.of(KIND), Health::Broken { .. });
    watched.until("the kind is broken", is_broken).await;
    watched.api().forbid(None);
    until_names(&mut watched, &["deny"]).await;
}

#[tokio::test]
async fn other_policies_wait_for_a_list_of_a_kind_that_is_served() {
    let api = server(V1ALPHA2).await;
    let mut watched = Watched::in_process(api, options()).await;
    watched.until("nothing is missing", |w| w.freshness.missing().is_empty()).await;
    assert_eq!(names(&watched), ["deny"]);
}

#[tokio::test]
async fn a_server_that_does_not_say_holds_nothing_up() {
    let api = server(V1ALPHA2).await;
    api.fail_discovery(Some(StatusCode::SERVICE_UNAVAILABLE));
    let mut watched = Watched::in_process(api, options()).await;
    watched.until("the rest goes on", |w| w.freshness.missing().is_empty()).await;
    assert!(matches!(watched.freshness.of(KIND), Health::Broken { .. }));
    assert_eq!(names(&watched), Vec::<String>::new());
    watched.api().fail_discovery(None);
    until_names(&mut watched, &["deny"]).await;
    let is_synced = |w: &Watched| matches!(w.freshness.of(KIND), Health::Synced { .. });
    watched.until("the kind is synced", is_synced).await;
}

#[tokio::test]
async fn policies_stay_in_force_while_the_server_does_not_say_whether_it_has_them() {
    let mut watched = Watched::in_process(server(V1ALPHA2).await, options()).await;
    until_names(&mut watched, &["deny"]).await;
    watched.api().fail_discovery(Some(StatusCode::SERVICE_UNAVAILABLE));
    watched.api().serve_cluster_policies(&[]);
    let is_broken = |w: &Watched| matches!(w.freshness.of(KIND), Health::Broken { .. });
    watched.until("the kind is broken", is_broken).await;
    assert_eq!(names(&watched), ["deny"]);
    assert!(watched.freshness.missing().is_empty());
    watched.put(policy("later")).await;
    watched.api().serve_cluster_policies(V1ALPHA2);
    watched.api().fail_discovery(None);
    until_names(&mut watched, &["deny", "later"]).await;
}

#[tokio::test]
async fn another_version_is_followed_without_a_gap() {
    let mut watched = Watched::in_process(server(V1ALPHA2).await, options()).await;
    until_names(&mut watched, &["deny"]).await;
    watched.api().serve_cluster_policies(&["v1beta1"]);
    watched.until("it is listed again", |w| w.n_lists.get(&KIND) == Some(&2)).await;
    assert_eq!(names(&watched), ["deny"]);
    watched.put(policy("later")).await;
    until_names(&mut watched, &["deny", "later"]).await;
    let asked = watched.api().asked();
    assert!(asked.iter().any(|asked| asked.path.contains("/v1beta1/clusternetworkpolicies")));
}

#[tokio::test]
async fn a_removed_definition_removes_the_policies_once_the_server_has_said_so_twice() {
    let mut watched = Watched::in_process(server(V1ALPHA2).await, options()).await;
    until_names(&mut watched, &["deny"]).await;
    watched.api().forget_asked();
    watched.api().serve_cluster_policies(&[]);
    until_names(&mut watched, &[]).await;
    let is_discovery = |path: &str| path == "/apis/policy.networking.k8s.io";
    let asked = watched.api().asked();
    assert!(asked.iter().filter(|asked| is_discovery(&asked.path)).count() >= 2, "{asked:?}");
    watched.api().serve_cluster_policies(V1ALPHA2);
    until_names(&mut watched, &["deny"]).await;
}

/// Rules may select any node, so the policies count only when all nodes are known.
#[tokio::test]
async fn every_node_is_watched_while_the_server_has_the_kind() {
    let options = Options { node: Some("node-1".into()), ..options() };
    let mut watched = Watched::in_process(server(&[]).await, options).await;
    watched.until_listed().await;
    let node = |name: &str| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "zone": "a" } } });
    watched.put(node("node-1")).await;
    watched.put(node("node-2")).await;
    let nodes = |w: &Watched| -> Vec<String> {
        w.state
            .nodes()
            .map(|node| node.name.to_string())
            .filter(|name| name.starts_with("node-"))
            .collect()
    };
    watched.until("the own node is known", |w| nodes(w) == ["node-1"]).await;
    watched.api().serve_cluster_policies(V1ALPHA2);
    until_names(&mut watched, &["deny"]).await;
    assert_eq!(nodes(&watched), ["node-1", "node-2"]);
}
