//! Authentication, and single requests.

use netpol_kube::Access;
use netpol_lab::fake_api::FakeApi;
use netpol_policy::model::ObjectName;
use serde_json::json;

use netpol_lab::watched::{Watched, pod};

#[tokio::test]
async fn a_server_that_moves_is_found_through_its_kubeconfig() {
    let mut watched = Watched::filled_in_process().await;
    watched.cluster.close();
    let other = FakeApi::start().await.unwrap();
    other.put(pod("shop", "elsewhere", "10.0.0.3")).unwrap();
    std::fs::write(&watched.kubeconfig, other.kubeconfig(&json!({}))).unwrap();
    // Its resource versions are unrelated to those of the other server: a real one would answer 410 Gone.
    other.compact();
    watched.until("the other server is asked", |_| !other.asked().is_empty()).await;
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let message = Access::open(Some(&missing)).await.err().unwrap().to_string();
    assert!(message.contains("missing") && message.contains("No such file"), "{message}");

    let empty = directory.path().join("empty");
    std::fs::write(&empty, "{}").unwrap();
    let message = Access::open(Some(&empty)).await.err().unwrap().to_string();
    assert!(message.contains("empty"), "{message}");
}

#[tokio::test]
async fn a_pod_can_be_asked_for_by_name() {
    let watched = Watched::filled_in_process().await;
    let client = watched.access.client();
    let (web, found) = netpol_kube::pod(&client, &ObjectName::new("shop", "web")).await.unwrap();
    assert_eq!(web.unwrap().addresses()[0].to_string(), "10.0.0.1");
    assert_eq!(found, []);
    let (none, found) = netpol_kube::pod(&client, &ObjectName::new("shop", "none")).await.unwrap();
    assert_eq!((none, found), (None, Vec::new()));
    watched.api().fail(http::StatusCode::INTERNAL_SERVER_ERROR, 1);
    let error = netpol_kube::pod(&client, &ObjectName::new("shop", "web")).await.unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");
}
