//! Faults of the server and of the connections to it.

use std::time::Duration;

use http::StatusCode;
use netpol_kube::Options;
use netpol_lab::fake_api::{GoneAs, StreamingLists};
use netpol_policy::model::Kind;
use netpol_policy::source::Health;
use serde_json::json;

use netpol_lab::settings::patience;
use netpol_lab::watched::{Watched, filled, pod};

#[tokio::test]
async fn a_version_that_is_gone_is_listed_anew_however_that_is_said() {
    for gone_as in [GoneAs::Status, GoneAs::Event] {
        for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
            let mut watched = Watched::filled_in_process().await;
            watched.api().gone_as(gone_as);
            watched.api().streaming_lists(streaming_lists);
            watched.cluster.close();
            watched.api().put(pod("shop", "new", "10.0.0.3")).unwrap();
            watched.api().delete(Kind::Pod, "shop", "web").unwrap();
            watched.api().compact();
            watched.cluster.open_again().unwrap();
            watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
            assert!(watched.pod("web").is_none(), "{gone_as:?}");
            assert_eq!(watched.n_lists[&Kind::Pod], 2, "{gone_as:?}");
        }
    }
}

#[tokio::test]
async fn a_version_that_expires_under_a_watch_is_listed_anew_without_an_alarm() {
    let mut watched = Watched::filled_in_process().await;
    watched.api().expire_watches(Kind::Pod);
    watched.until("the pods are listed again", |w| w.n_lists[&Kind::Pod] == 2).await;
    assert_eq!(watched.state.pods().count(), 2);
    assert!(watched.errors.is_empty(), "{:?}", watched.errors);
}

#[tokio::test]
async fn a_new_list_removes_what_it_lacks() {
    let mut watched = Watched::filled_in_process().await;
    watched.api().lose(Kind::Pod, "shop", "web");
    watched.api().lose(Kind::NetworkPolicy, "shop", "deny");
    watched.api().expire_watches(Kind::Pod);
    watched.api().expire_watches(Kind::NetworkPolicy);
    watched.until("the pod is gone", |w| w.pod("web").is_none()).await;
    watched.until("the policy is gone", |w| w.state.policies().count() == 0).await;
    assert!(watched.pod("db").is_some());
}

#[tokio::test]
async fn a_server_that_fails_at_first_is_asked_again() {
    for status in [500, 503, 429, 403] {
        let api = filled().await;
        api.fail(StatusCode::from_u16(status).unwrap(), 20);
        let mut watched = Watched::in_process(api, Options::default()).await;
        watched.until_listed().await;
        assert_eq!(watched.state.pods().count(), 2);
        let errors = &watched.errors;
        assert!(errors.iter().any(|error| error.contains(&status.to_string())), "{errors:?}");
    }
}

#[tokio::test]
async fn repeated_and_stale_events_change_nothing() {
    let mut watched = Watched::filled_in_process().await;
    let old = watched.api().get(Kind::Pod, "shop", "web").unwrap();
    watched.api().put(pod("shop", "web", "10.0.0.9")).unwrap();
    watched.api().delete(Kind::Pod, "shop", "db").unwrap();
    watched.until("the pod is gone", |w| w.pod("db").is_none()).await;
    watched.api().inject(Kind::Pod, "MODIFIED", &old);
    watched.api().inject(Kind::Pod, "DELETED", &old);
    watched.api().repeat_events(Kind::Pod, 6);
    watched.fence().await;
    assert_eq!(watched.pod_names(), ["web"]);
    assert_eq!(watched.address_of("web"), "10.0.0.9", "an old event was applied");
}

#[tokio::test]
async fn a_deletion_of_another_pod_of_the_same_name_removes_nothing() {
    let mut watched = Watched::filled_in_process().await;
    let mut predecessor = watched.api().get(Kind::Pod, "shop", "web").unwrap();
    predecessor["metadata"]["uid"] = json!("another");
    predecessor["metadata"]["resourceVersion"] = json!((watched.api().version() + 1).to_string());
    watched.api().inject(Kind::Pod, "DELETED", &predecessor);
    let mut stranger = predecessor;
    stranger["metadata"]["name"] = json!("never-seen");
    stranger["metadata"]["resourceVersion"] = json!((watched.api().version() + 1).to_string());
    watched.api().inject(Kind::Pod, "DELETED", &stranger);
    watched.fence().await;
    assert_eq!(watched.pod_names(), ["db", "web"]);
}

#[tokio::test]
async fn a_line_that_is_no_event_leads_to_a_new_list() {
    let mut watched = Watched::filled_in_process().await;
    watched.api().inject_line(Kind::Pod, "<html>");
    watched.until("the pods are listed again", |w| w.n_lists[&Kind::Pod] == 2).await;
    watched.fence().await;
    assert_eq!(watched.pod_names(), ["db", "web"]);
    assert!(watched.errors.iter().any(|error| error.contains("not an event")));
}

#[tokio::test]
async fn a_watch_that_the_server_gives_up_is_listed_anew() {
    let mut watched = Watched::filled_in_process().await;
    let status =
        json!({ "kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd lost" });
    watched.api().inject(Kind::Pod, "ERROR", &status);
    watched.until("the pods are listed again", |w| w.n_lists[&Kind::Pod] == 2).await;
    assert!(watched.errors.iter().any(|error| error.contains("etcd lost")), "{:?}", watched.errors);
}

#[tokio::test]
async fn ended_watches_and_cut_lines_go_on_where_they_were() {
    let mut watched = Watched::filled_in_process().await;
    watched.api().end_watches();
    watched.api().put(pod("shop", "two", "10.0.0.4")).unwrap();
    watched.until("the second pod is there", |w| w.pod("two").is_some()).await;
    assert!(watched.errors.is_empty(), "no cause for alarm: {:?}", watched.errors);
    watched.api().cut_lines(3);
    watched.api().put(pod("shop", "three", "10.0.0.5")).unwrap();
    watched.until("the third pod is there", |w| w.pod("three").is_some()).await;
    assert_eq!(watched.n_lists[&Kind::Pod], 1, "nothing was listed again");
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_begun_again() {
    let options = Options { patience: Duration::from_millis(200), ..Options::default() };
    let mut watched = Watched::in_process(filled().await, options).await;
    watched.until_listed().await;
    watched.api().forget_asked();
    watched.api().hold();
    watched.until("all kinds ask again", |w| w.api().asked().len() >= 5).await;
    watched.api().put(pod("shop", "new", "10.0.0.3")).unwrap();
    watched.api().release();
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
}

#[tokio::test]
async fn the_first_watch_that_works_again_wakes_the_others() {
    let delay = Duration::from_secs(6);
    let options = Options { min_retry: delay, max_retry: delay, ..Options::default() };
    let mut watched = Watched::in_process(filled().await, options).await;
    watched.until_listed().await;
    watched.cluster.close();
    for kind in Kind::BUILT_IN {
        let is_broken = |w: &Watched| matches!(w.freshness.of(kind), Health::Broken { .. });
        watched.until("the outage is reported", is_broken).await;
    }
    watched.cluster.open_again().unwrap();
    watched
        .until("one is there", |w| Kind::BUILT_IN.iter().any(|kind| w.heard(*kind).is_some()))
        .await;
    watched
        .until("all are there", |w| Kind::BUILT_IN.iter().all(|kind| w.heard(*kind).is_some()))
        .await;
    let since = |kind| match watched.freshness.of(kind) {
        Health::Synced { since, .. } => *since,
        health @ (Health::Listing | Health::Broken { .. } | Health::Unserved) => {
            panic!("{kind}: {health:?}")
        }
    };
    let mut moments = Kind::BUILT_IN.map(since);
    moments.sort();
    // Without waking each other they would recover up to three seconds apart.
    assert!(moments[4] - moments[0] < Duration::from_millis(700) * patience(), "{moments:?}");
}
