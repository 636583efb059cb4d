//! Connections on which nothing comes any more though nobody has ended them.

use std::time::Duration;

use netpol_kube::Options;
use netpol_policy::model::Kind;
use netpol_policy::source::Health;

use netpol_lab::watched::{Watched, filled};

#[tokio::test]
async fn a_watch_behind_a_proxy_that_stays_silent_is_reported_and_begun_again() {
    let options = Options { patience: Duration::from_millis(300), ..Options::default() };
    let mut watched = Watched::in_process(filled().await, options).await;
    watched.until_listed().await;
    assert!(watched.errors.is_empty(), "{:?}", watched.errors);
    // The proxy accepts all that is sent, so that the kernel has no reason to doubt the connections.
    watched.cluster.forget_connections();
    for kind in Kind::BUILT_IN {
        let is_reported = |w: &Watched| {
            w.errors.iter().any(|error| {
                error.starts_with(kind.as_str()) && error.contains("the watch has been silent")
            })
        };
        watched.until("the silence is reported", is_reported).await;
    }
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    assert_eq!(watched.n_lists.values().sum::<usize>(), 5, "nothing was listed again");
}

#[tokio::test]
async fn a_server_that_stays_silent_is_stale_until_it_answers() {
    let options = Options { patience: Duration::from_millis(200), ..Options::default() };
    let mut watched = Watched::in_process(filled().await, options).await;
    watched.until_listed().await;
    watched.api().hold();
    for kind in Kind::BUILT_IN {
        let is_stale = |w: &Watched| matches!(w.freshness.of(kind), Health::Broken { .. });
        watched.until("the silence is reported", is_stale).await;
    }
    watched.api().release();
    for kind in Kind::BUILT_IN {
        watched.until("the kind is fresh again", |w| w.heard(kind).is_some()).await;
    }
}
