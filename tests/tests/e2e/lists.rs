//! The first list, and the changes after it.

use std::sync::Arc;

use netpol_kube::Options;
use netpol_lab::cluster::{Able, Cluster};
use netpol_lab::watched::{DEADLINE, Watched, fill, node, pod};
use netpol_policy::model::{Kind, ObjectName};
use netpol_policy::source::Health;

/// Whether a server supports streaming lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    Streaming,
    InPages,
}

async fn watched_with(lists: Lists, options: Options) -> Option<Watched> {
    let mut cluster = Cluster::open().await.unwrap();
    if lists == Lists::InPages && cluster.refuse_streaming_lists().await.unwrap() == Able::No {
        return None;
    }
    Some(Watched::filled_at(cluster, options).await)
}

async fn check_lists(lists: Lists) {
    let Some(watched) = watched_with(lists, Options::default()).await else { return };
    let namespace = &watched.namespace.clone();
    assert_eq!(watched.pod_names(), ["db", "web"]);
    assert_eq!(watched.policy_names(), ["deny"]);
    assert_eq!(watched.address_of("web"), "10.0.0.1");
    assert_eq!(watched.address_of_node(namespace), "192.168.0.1");
    assert!(watched.state.namespaces().any(|found| *found.name == **namespace));
    let service = ObjectName::new(namespace, "web");
    assert!(watched.state.services().any(|found| found.name == service));
    assert_eq!(watched.n_lists.values().copied().collect::<Vec<_>>(), [1; 5]);
    for kind in Kind::BUILT_IN {
        assert!(matches!(watched.freshness.of(kind), Health::Synced { .. }), "{kind}");
    }
    if let Some(asked) = watched.cluster.asked_lists().unwrap() {
        assert_eq!(asked.len(), if lists == Lists::InPages { 5 } else { 0 }, "{asked:?}");
    }
}

#[tokio::test]
async fn every_kind_is_listed_completely_and_once() {
    check_lists(Lists::Streaming).await;
}

#[tokio::test]
async fn every_kind_is_listed_in_pages_where_a_server_has_no_streaming_lists() {
    check_lists(Lists::InPages).await;
}

#[tokio::test]
async fn a_list_in_pages_is_told_as_one() {
    let mut cluster = Cluster::open().await.unwrap();
    if cluster.refuse_streaming_lists().await.unwrap() == Able::No {
        return;
    }
    let namespace = cluster.name("shop");
    fill(&cluster, &namespace).await;
    for number in 0..5 {
        cluster.put(pod(&namespace, &format!("web-{number}"), "")).await.unwrap();
    }
    let options = Options { page_size: 2, ..Options::default() };
    let mut watched = Watched::new(cluster, namespace, options).await;
    watched.until_listed().await;
    assert_eq!(watched.pod_names().len(), 7);
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
    let asked = watched.cluster.asked_lists().unwrap().unwrap();
    let n_pages = asked.iter().filter(|path| *path == "/api/v1/pods").count();
    assert_eq!(n_pages, 4);
}

#[tokio::test]
async fn many_pods_are_listed() {
    let cluster = Cluster::open().await.unwrap();
    let namespace = cluster.name("shop");
    fill(&cluster, &namespace).await;
    // The server in this process accepts them faster than a real one.
    let n_pods = if cluster.as_in_process().is_some() { 5000 } else { 300 };
    for number in 0..n_pods {
        cluster.put(pod(&namespace, &format!("web-{number}"), "10.0.0.1")).await.unwrap();
    }
    let mut watched = Watched::new(cluster, namespace, Options::default()).await;
    watched.until_listed().await;
    assert_eq!(watched.pod_names().len(), n_pods + 2);
}

#[tokio::test]
async fn changes_arrive_as_they_happen() {
    let mut watched = Watched::filled().await;
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    watched.put(watched.new_pod("web", "10.0.0.9")).await;
    watched.until("the address changed", |w| w.address_of("web") == "10.0.0.9").await;
    let mut relabelled = watched.new_pod("web", "10.0.0.9");
    relabelled["metadata"]["labels"]["app"] = "other".into();
    watched.put(relabelled).await;
    let is_relabelled = |w: &Watched| {
        w.pod("web").is_some_and(|pod| pod.labels.get("app").is_some_and(|app| **app == *"other"))
    };
    watched.until("the label changed", is_relabelled).await;
    watched.delete(Kind::Pod, "web").await;
    watched.until("the pod is gone", |w| w.pod("web").is_none()).await;
    watched.delete(Kind::NetworkPolicy, "deny").await;
    watched.until("the policy is gone", |w| w.policy_names().is_empty()).await;
    assert_eq!(watched.n_lists.values().sum::<usize>(), 5, "nothing was listed again");
}

#[tokio::test]
async fn only_the_own_node_is_watched() {
    let cluster = Cluster::open().await.unwrap();
    let (own, other) = (cluster.name("shop"), cluster.name("node-2"));
    cluster.put(node(&other, "192.168.0.2")).await.unwrap();
    let options = Options { node: Some(Arc::from(&*own)), ..Options::default() };
    let mut watched = Watched::filled_at(cluster, options).await;
    watched.put(node(&other, "192.168.0.3")).await;
    watched.put(node(&own, "192.168.0.4")).await;
    watched.until("the own node changed", |w| w.address_of_node(&own) == "192.168.0.4").await;
    assert!(watched.state.node(&other).is_none());
}

#[tokio::test]
async fn a_quiet_watch_is_heard_of_by_bookmarks() {
    let mut watched = Watched::filled().await;
    let before = watched.heard(Kind::Node);
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the pod is there", |w| w.pod("new").is_some()).await;
    watched.cluster.provoke_bookmark(Kind::Node).await.unwrap();
    watched.until_within(3 * DEADLINE, "a bookmark", |w| w.heard(Kind::Node) > before).await;
    assert_eq!(watched.n_lists[&Kind::Node], 1);
}
