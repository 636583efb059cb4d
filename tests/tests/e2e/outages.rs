//! Outages: the server stops, connections break, or history is compacted.

use std::time::Duration;

use netpol_kube::Options;
use netpol_lab::cluster::{Able, Cluster};
use netpol_lab::watched::{Watched, node};
use netpol_policy::model::Kind;
use netpol_policy::source::Health;

fn is_broken(watched: &Watched, kind: Kind) -> bool {
    matches!(watched.freshness.of(kind), Health::Broken { .. })
}

fn is_synced(watched: &Watched, kind: Kind) -> bool {
    matches!(watched.freshness.of(kind), Health::Synced { .. })
}

#[tokio::test]
async fn broken_connections_go_on_where_they_were() {
    let mut watched = Watched::filled().await;
    watched.cluster.break_connections();
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the pod is there", |w| w.pod("new").is_some()).await;
    assert!(watched.errors.is_empty(), "no cause for alarm: {:?}", watched.errors);
    assert_eq!(watched.n_lists.values().sum::<usize>(), 5, "nothing was listed again");
}

#[tokio::test]
async fn what_happens_while_the_way_is_closed_arrives_when_it_is_open() {
    let mut watched = Watched::filled().await;
    watched.cluster.close();
    for kind in Kind::BUILT_IN {
        watched.until("the outage is told", |w| is_broken(w, kind)).await;
    }
    assert!(watched.errors.iter().any(|error| error.contains("refused")), "{:?}", watched.errors);
    assert_eq!(watched.pod_names(), ["db", "web"], "the last state is lost");
    assert_eq!(watched.freshness.missing(), []);

    watched.delete(Kind::Pod, "web").await;
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.cluster.open_again().unwrap();
    watched.until("the pod is gone", |w| w.pod("web").is_none()).await;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    for kind in Kind::BUILT_IN {
        watched.until("the recovery is told", |w| is_synced(w, kind)).await;
    }
    assert_eq!(watched.n_lists.values().sum::<usize>(), 5, "nothing was listed again");
}

#[tokio::test]
async fn a_server_that_has_forgotten_is_listed_anew_and_what_it_lacks_is_gone() {
    let mut cluster = Cluster::open().await.unwrap();
    if cluster.refuse_streaming_lists().await.unwrap() == Able::No {
        return;
    }
    check_forgotten(Watched::filled_at(cluster, Options::default()).await).await;
    check_forgotten(Watched::filled().await).await;
}

async fn check_forgotten(mut watched: Watched) {
    watched.cluster.close();
    for kind in Kind::BUILT_IN {
        watched.until("the outage is told", |w| is_broken(w, kind)).await;
    }
    watched.delete(Kind::Pod, "web").await;
    watched.delete(Kind::NetworkPolicy, "deny").await;
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    if watched.cluster.forget_history().await.unwrap() == Able::No {
        return;
    }
    watched.cluster.open_again().unwrap();
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    assert!(watched.pod("web").is_none());
    // The version is compacted, which is no failure and causes no further delay.
    let is_alarm = |error: &String| error.contains("too old");
    assert!(!watched.errors.iter().any(is_alarm), "{:?}", watched.errors);
    watched.until("the policy is gone", |w| w.policy_names().is_empty()).await;
    assert_eq!(watched.n_lists[&Kind::Pod], 2, "{:?}", watched.errors);
    assert_eq!(watched.n_lists[&Kind::NetworkPolicy], 2, "{:?}", watched.errors);
}

#[tokio::test]
async fn a_connection_that_nobody_knows_any_more_is_left() {
    let options = Options { patience: Duration::from_millis(300), ..Options::default() };
    let mut watched = Watched::filled_at(Cluster::open().await.unwrap(), options).await;
    watched.cluster.forget_connections();
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    watched.put(node(&watched.namespace, "192.168.0.9")).await;
    let is_told = |w: &Watched| w.address_of_node(&w.namespace) == "192.168.0.9";
    watched.until("the node changed", is_told).await;
    assert_eq!(watched.n_lists.values().sum::<usize>(), 5, "nothing was listed again");
}

#[tokio::test]
async fn a_server_that_starts_anew_is_followed_without_a_gap() {
    let mut watched = Watched::filled().await;
    watched.cluster.stop_server();
    for kind in Kind::BUILT_IN {
        watched.until("the outage is told", |w| is_broken(w, kind)).await;
    }
    watched.cluster.start_server().await.unwrap();
    watched.put(watched.new_pod("web", "10.0.0.9")).await;
    watched.delete(Kind::Pod, "db").await;
    watched.cluster.open_again().unwrap();
    watched.until("the address changed", |w| w.address_of("web") == "10.0.0.9").await;
    watched.until("the pod is gone", |w| w.pod("db").is_none()).await;
    for kind in Kind::BUILT_IN {
        watched.until("the recovery is told", |w| is_synced(w, kind)).await;
    }
}
