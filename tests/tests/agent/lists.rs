//! The first list, and the changes after it.

use std::time::Duration;

use netpol_kube::Options;
use netpol_lab::fake_api::{FakeApi, StreamingLists};
use netpol_policy::model::Kind;

use netpol_lab::watched::{Watched, filled, node, pod};

#[tokio::test]
async fn a_list_whose_next_page_is_gone_is_read_anew() {
    let api = FakeApi::start().await.unwrap();
    api.streaming_lists(StreamingLists::Refused);
    api.lose_pages(2);
    for number in 0..5 {
        api.put(pod("shop", &format!("web-{number}"), "")).unwrap();
    }
    let mut watched =
        Watched::in_process(api, Options { page_size: 2, ..Options::default() }).await;
    watched.until_listed().await;
    assert_eq!(watched.state.pods().count(), 5);
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
}

#[tokio::test]
async fn a_server_that_ignores_streaming_lists_is_listed_in_pages() {
    let api = filled().await;
    api.streaming_lists(StreamingLists::Ignored);
    let streaming_patience = Duration::from_millis(100);
    let mut watched =
        Watched::in_process(api, Options { streaming_patience, ..Options::default() }).await;
    watched.until_listed().await;
    assert_eq!(watched.state.pods().count(), 2);
    assert_eq!(
        watched
            .cluster
            .asked_lists()
            .unwrap()
            .unwrap()
            .iter()
            .filter(|path| *path == "/api/v1/pods")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_bookmark_spares_a_quiet_kind_the_next_list() {
    let mut watched = Watched::filled_in_process().await;
    let before = watched.heard(Kind::Node);
    watched.api().put(pod("shop", "other", "10.0.0.3")).unwrap();
    watched.api().send_bookmark(Kind::Node);
    watched.until("the bookmark arrived", |w| w.heard(Kind::Node) > before).await;
    watched.cluster.close();
    watched.api().compact();
    watched.cluster.open_again().unwrap();
    watched.api().put(node("node-1", "192.168.0.7")).unwrap();
    watched.until("the node changed", |w| w.address_of_node("node-1") == "192.168.0.7").await;
    assert_eq!(watched.n_lists[&Kind::Node], 1);
}

#[tokio::test]
async fn cancelled_watches_end() {
    let mut watched = Watched::filled_in_process().await;
    watched.cancel.cancel();
    let mut tasks = std::mem::take(&mut watched.tasks);
    let ended = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(netpol_lab::watched::DEADLINE, ended).await.unwrap();
}
