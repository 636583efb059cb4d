//! The first list, and the changes after it.

use std::time::Duration;

use http::StatusCode;
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
    assert_eq!(n_lists_in_pages(&watched), 1);
}

#[tokio::test]
async fn a_streaming_list_that_an_error_event_refuses_is_read_in_pages_without_an_alarm() {
    let api = filled().await;
    api.streaming_lists(StreamingLists::RefusedByEvent);
    let mut watched = Watched::in_process(api, Options::default()).await;
    watched.until_listed().await;
    assert_eq!(watched.pod_names(), ["db", "web"]);
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
    assert!(watched.errors.is_empty(), "{:?}", watched.errors);

    // The etcd behind the server may be another one by then: the next list is asked for as a stream again.
    watched.api().streaming_lists(StreamingLists::Served);
    watched.api().forget_asked();
    watched.api().expire_watches(Kind::Pod);
    watched.until("the pods are listed again", |w| w.n_lists[&Kind::Pod] == 2).await;
    assert_eq!(n_lists_in_pages(&watched), 0);
}

#[tokio::test]
async fn a_streaming_list_that_breaks_is_read_in_pages() {
    let api = filled().await;
    // The first list of every kind.
    api.cut_lines(5);
    let mut watched = Watched::in_process(api, Options::default()).await;
    watched.until_listed().await;
    assert_eq!(watched.pod_names(), ["db", "web"]);
    assert_eq!(n_lists_in_pages(&watched), 1);
}

#[tokio::test]
async fn a_streaming_list_that_any_status_refuses_is_read_in_pages() {
    for status in [400, 403, 404, 410, 422, 429, 500, 503] {
        let api = filled().await;
        api.fail(StatusCode::from_u16(status).unwrap(), 5);
        let mut watched = Watched::in_process(api, Options::default()).await;
        watched.until_listed().await;
        assert_eq!(watched.pod_names(), ["db", "web"], "{status}");
        assert_eq!(n_lists_in_pages(&watched), 1, "{status}");
    }
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_the_list_is_streamed_is_not_in_it() {
    let api = filled().await;
    api.delete_while_listed(Kind::Pod, "shop", "web");
    let mut watched = Watched::in_process(api, Options::default()).await;
    watched.until_listed().await;
    assert_eq!(watched.pod_names(), ["db"]);
}

#[expect(clippy::unwrap_used, reason = "the server of a test answers")]
fn n_lists_in_pages(watched: &Watched) -> usize {
    let lists = watched.cluster.asked_lists().unwrap().unwrap();
    lists.iter().filter(|path| *path == "/api/v1/pods").count()
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
