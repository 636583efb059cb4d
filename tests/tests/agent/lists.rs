//! How the first list comes, and the changes after it.

use std::sync::Arc;
use std::time::Duration;

use netpol_agent::kube::Options;
use netpol_agent::model::Kind;
use netpol_agent::source::Health;
use netpol_tests::fake_api::{FakeApi, StreamingLists};

use crate::watched::{Watched, filled, node, pod};

#[tokio::test]
async fn every_kind_is_listed_completely_and_once() {
    for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
        let api = filled().await;
        api.streaming_lists(streaming_lists);
        let mut watched = Watched::new(api, Options::default()).await;
        assert_eq!(watched.freshness.missing(), Kind::ALL);
        watched.until_listed().await;
        let state = &watched.state;
        assert_eq!(state.pods().count(), 2);
        assert_eq!(state.policies().count(), 1);
        assert_eq!(state.namespaces().count(), 1);
        assert_eq!(state.services().count(), 1);
        assert_eq!(state.nodes().count(), 1);
        assert_eq!(watched.n_lists.values().copied().collect::<Vec<_>>(), [1; 5]);
        for kind in Kind::ALL {
            assert!(matches!(watched.freshness.of(kind), Health::Synced { .. }), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_list_in_pages_is_told_as_one() {
    let api = FakeApi::start().await.unwrap();
    api.streaming_lists(StreamingLists::Refused);
    for number in 0..7 {
        api.put(pod("shop", &format!("web-{number}"), "")).unwrap();
    }
    let mut watched = Watched::new(api, Options { page_size: 2, ..Options::default() }).await;
    watched.until_listed().await;
    assert_eq!(watched.state.pods().count(), 7);
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
    assert_eq!(watched.n_asked_lists("/api/v1/pods"), 4);
}

#[tokio::test]
async fn a_list_whose_next_page_is_gone_is_read_anew() {
    let api = FakeApi::start().await.unwrap();
    api.streaming_lists(StreamingLists::Refused);
    api.lose_pages(2);
    for number in 0..5 {
        api.put(pod("shop", &format!("web-{number}"), "")).unwrap();
    }
    let mut watched = Watched::new(api, Options { page_size: 2, ..Options::default() }).await;
    watched.until_listed().await;
    assert_eq!(watched.state.pods().count(), 5);
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
}

#[tokio::test]
async fn a_streaming_list_needs_no_other() {
    let mut watched = Watched::new(filled().await, Options::default()).await;
    watched.until_listed().await;
    assert!(watched.api.asked().iter().all(|asked| asked.query.contains_key("watch")));
}

#[tokio::test]
async fn a_server_that_ignores_streaming_lists_is_listed_in_pages() {
    let api = filled().await;
    api.streaming_lists(StreamingLists::Ignored);
    let streaming_patience = Duration::from_millis(100);
    let mut watched = Watched::new(api, Options { streaming_patience, ..Options::default() }).await;
    watched.until_listed().await;
    assert_eq!(watched.state.pods().count(), 2);
    assert_eq!(watched.n_asked_lists("/api/v1/pods"), 1);
}

#[tokio::test]
async fn thousands_of_pods_are_listed() {
    for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
        let api = FakeApi::start().await.unwrap();
        api.streaming_lists(streaming_lists);
        for number in 0..5000 {
            api.put(pod("shop", &format!("web-{number}"), "10.0.0.1")).unwrap();
        }
        let mut watched = Watched::new(api, Options::default()).await;
        watched.until_listed().await;
        assert_eq!(watched.state.pods().count(), 5000);
    }
}

#[tokio::test]
async fn changes_arrive_as_they_happen() {
    let mut watched = Watched::filled().await;
    watched.api.put(pod("shop", "new", "10.0.0.3")).unwrap();
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    watched.api.put(pod("shop", "web", "10.0.0.9")).unwrap();
    watched.until("the address changed", |w| w.address_of("web") == "10.0.0.9").await;
    watched.api.delete(Kind::Pod, "shop", "web").unwrap();
    watched.until("the pod is gone", |w| w.pod("web").is_none()).await;
    watched.api.delete(Kind::NetworkPolicy, "shop", "deny").unwrap();
    watched.until("the policy is gone", |w| w.state.policies().count() == 0).await;
    assert_eq!(watched.n_lists.values().sum::<usize>(), 5, "nothing was listed again");
}

#[tokio::test]
async fn only_the_own_node_is_watched() {
    let api = filled().await;
    api.put(node("node-2", "192.168.0.2")).unwrap();
    let options = Options { node: Some(Arc::from("node-1")), ..Options::default() };
    let mut watched = Watched::new(api, options).await;
    watched.until_listed().await;
    watched.api.put(node("node-2", "192.168.0.3")).unwrap();
    watched.api.put(node("node-1", "192.168.0.4")).unwrap();
    watched.until("the own node changed", |w| w.address_of_node("node-1") == "192.168.0.4").await;
    assert!(watched.state.node("node-2").is_none());
}

#[tokio::test]
async fn a_bookmark_spares_a_quiet_kind_the_next_list() {
    let mut watched = Watched::filled().await;
    let before = watched.heard(Kind::Node);
    watched.api.put(pod("shop", "other", "10.0.0.3")).unwrap();
    watched.api.send_bookmark(Kind::Node);
    watched.until("the bookmark arrived", |w| w.heard(Kind::Node) > before).await;
    watched.api.stop();
    watched.api.compact();
    watched.api.start_again().await.unwrap();
    watched.api.put(node("node-1", "192.168.0.7")).unwrap();
    watched.until("the node changed", |w| w.address_of_node("node-1") == "192.168.0.7").await;
    assert_eq!(watched.n_lists[&Kind::Node], 1);
}

#[tokio::test]
async fn cancelled_watches_end() {
    let mut watched = Watched::filled().await;
    watched.cancel.cancel();
    let mut tasks = std::mem::take(&mut watched.tasks);
    let ended = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(crate::watched::DEADLINE, ended).await.unwrap();
}
