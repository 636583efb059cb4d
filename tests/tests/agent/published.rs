//! What the agents of nodes publish about their pods, and what others read of it.
#![expect(clippy::unwrap_used, reason = "a harness fails the test")]

use std::sync::Arc;
use std::time::Duration;

use netpol_kube::published::{Followed, GUARD, Guard, MAX_PODS, NAMESPACE};
use netpol_kube::published::{follow, guard, node_uid, publish, published};
use netpol_kube::{Access, Options};
use netpol_lab::fake_api::FakeApi;
use netpol_lab::watched::DEADLINE;
use netpol_policy::model::{Kind, ObjectName};
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::{ClusterState, Delta, PublishedPod};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// An API server with two nodes, and access to it.
pub(super) async fn server() -> (FakeApi, Access) {
    let api = FakeApi::start().await.unwrap();
    for node in ["n1", "n2"] {
        api.put(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } }));
    }
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig(&json!({}))).unwrap();
    let access = Access::open(Some(&kubeconfig)).await.unwrap();
    (api, access)
}

fn pod(name: &str, address: &str) -> PublishedPod {
    PublishedPod {
        pod: ObjectName::new("shop", name),
        uid: Arc::from(format!("uid-{name}")),
        addresses: vec![address.parse().unwrap()],
    }
}

/// Another agent, which follows what is published.
struct Other {
    state: ClusterState,
    updates: mpsc::Receiver<SourceUpdate>,
    task: tokio::task::JoinHandle<()>,
}

impl Other {
    fn new(access: Access) -> Self {
        let (out, updates) = mpsc::channel(16);
        let options = Options { min_retry: Duration::from_millis(50), ..Options::default() };
        let task = tokio::spawn(async move {
            follow(access, &options, &out, &mut Followed::default()).await;
        });
        let mut state = ClusterState::default();
        for name in ["a", "b"] {
            let object = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-{name}") },
                "spec": { "nodeName": "n2" },
            });
            let converted = netpol_policy::model::convert::object(&object);
            drop(state.apply(Delta::Upsert(converted.object.unwrap())));
        }
        Self { state, updates, task }
    }

    /// Waits until these pods own addresses because n2 says so.
    async fn expect(&mut self, names: &[&str]) {
        let told = timeout(DEADLINE, async {
            loop {
                let found = self.state.published_addresses();
                let found: Vec<_> = found.map(|(_, pod)| pod.name.name.to_string()).collect();
                if found == names {
                    return;
                }
                for delta in self.updates.recv().await.unwrap().deltas {
                    drop(self.state.apply(delta));
                }
            }
        });
        let told = told.await;
        assert!(told.is_ok(), "not {names:?}: {:?}", self.state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_publishes_arrives_at_the_others_and_ends_with_its_object() {
    let (api, access) = server().await;
    let client = access.client();
    let uid = node_uid(&client, "n2").await.unwrap().unwrap();
    assert_eq!(node_uid(&client, "n3").await.unwrap(), None);
    let mut other = Other::new(access.clone());
    publish(&client, "n2", &uid, &[pod("a", "10.244.2.1")]).await.unwrap();
    other.expect(&["a"]).await;
    publish(&client, "n2", &uid, &[pod("a", "10.244.2.1"), pod("b", "10.244.2.2")]).await.unwrap();
    other.expect(&["a", "b"]).await;
    let object = api.object("ConfigMap", NAMESPACE, "n2").unwrap();
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], json!(uid));
    assert_eq!(published(&client, "n2").await.unwrap().len(), 2);
    assert_eq!(published(&client, "n1").await.unwrap(), []);

    // The object goes with the Node, here while the watch is away.
    api.hold();
    api.break_connections();
    api.delete_object("ConfigMap", NAMESPACE, "n2").unwrap();
    api.compact();
    api.release();
    other.expect(&[]).await;
    other.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_make_no_sense_are_ignored_and_large_ones_cut() {
    let (api, access) = server().await;
    let mut other = Other::new(access.clone());
    let metadata = json!({
        "name": "n2", "namespace": NAMESPACE, "labels": { "app.kubernetes.io/component": "node-addresses" },
    });
    let object = |text: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "addresses": text },
        })
    };
    api.put(object("uid-a shop/a 10.244.2.1\n")).unwrap();
    other.expect(&["a"]).await;
    api.put(object(&"x".repeat(300_000))).unwrap();
    other.expect(&[]).await;
    let mut lines = "uid-x shop/x 10.244.2.9\n".repeat(MAX_PODS - 1);
    lines.push_str("uid-a shop/a 10.244.2.1\nuid-b shop/b 10.244.2.2\n");
    api.put(object(&lines)).unwrap();
    other.expect(&["a"]).await;
    api.put(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }));
    other.expect(&[]).await;
    other.task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_kept_to_their_objects_if_the_policy_and_its_binding_are_there() {
    let (api, access) = server().await;
    let client = access.client();
    assert_eq!(guard(&client).await.unwrap(), Guard::Missing);
    let mut kinds = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"].into_iter();
    let put = |kind| {
        api.put(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": GUARD },
        }))
    };
    put(kinds.next().unwrap()).unwrap();
    assert_eq!(guard(&client).await.unwrap(), Guard::Missing);
    put(kinds.next().unwrap()).unwrap();
    assert_eq!(guard(&client).await.unwrap(), Guard::InPlace);
    api.forbid(Some(Kind::Node));
    assert!(node_uid(&client, "n2").await.is_err());
}
