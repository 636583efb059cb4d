//! Objects that cannot be read.

use netpol_kube::Options;
use netpol_lab::fake_api::StreamingLists;
use netpol_policy::model::{Code, Kind, ObjectName, ObjectRef};
use serde_json::json;

use netpol_lab::watched::{Watched, filled, pod};

fn named(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef { kind, name: ObjectName::new("shop", name) }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_reported_and_stays_as_it_was() {
    let mut watched = Watched::filled_in_process().await;
    let mut bad = pod("shop", "web", "10.0.0.9");
    bad["spec"]["containers"] = json!("none");
    watched.api().put(bad).unwrap();
    let web = named(Kind::Pod, "web");
    watched.until("the finding is reported", |w| !w.diagnostics.of(&web).is_empty()).await;
    let found = watched.diagnostics.of(&web);
    assert_eq!((found[0].code, found[0].field.as_str()), (Code::Malformed, "spec.containers"));
    assert_eq!(watched.address_of("web"), "10.0.0.1");

    // Other objects are still followed, and another list does not change the finding.
    watched.api().put(pod("shop", "db", "10.0.0.8")).unwrap();
    watched.until("the other pod changed", |w| w.address_of("db") == "10.0.0.8").await;
    watched.api().expire_watches(Kind::Pod);
    watched.until("the pods are listed again", |w| w.n_lists[&Kind::Pod] == 2).await;
    assert_eq!(watched.address_of("web"), "10.0.0.1");
    assert_eq!(watched.diagnostics.of(&web).len(), 1);

    watched.api().put(pod("shop", "web", "10.0.0.9")).unwrap();
    watched.until("the pod is read again", |w| w.address_of("web") == "10.0.0.9").await;
    assert!(watched.diagnostics.of(&web).is_empty());
}

#[tokio::test]
async fn an_unreadable_object_in_the_first_list_hides_no_other() {
    for streaming_lists in [StreamingLists::Served, StreamingLists::Refused] {
        let api = filled().await;
        api.streaming_lists(streaming_lists);
        let mut bad = pod("shop", "bad", "10.0.0.9");
        bad["metadata"]["labels"] = json!({ "app": 7 });
        api.put(bad).unwrap();
        let mut watched = Watched::in_process(api, Options::default()).await;
        watched.until_listed().await;
        assert_eq!(watched.pod_names(), ["db", "web"]);
        let found = watched.diagnostics.of(&named(Kind::Pod, "bad"));
        assert_eq!(found[0].field, "metadata.labels.app");
    }
}

#[tokio::test]
async fn an_object_without_a_name_is_reported_and_stops_nothing() {
    let mut watched = Watched::filled_in_process().await;
    watched.api().inject(Kind::Pod, "MODIFIED", &json!({ "metadata": { "name": 7 } }));
    watched.fence().await;
    let unnamed = ObjectRef { kind: Kind::Pod, name: ObjectName::cluster_scoped("") };
    assert_eq!(watched.diagnostics.of(&unnamed)[0].field, "metadata.name");
    assert_eq!(watched.n_lists[&Kind::Pod], 1);
}
