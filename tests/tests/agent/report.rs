//! Diagnostics as Kubernetes Events.

use std::sync::Arc;
use std::time::Duration;

use netpol_agent::kube::{Access, Report, report};
use netpol_agent::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef};
use netpol_tests::fake_api::FakeApi;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::watched::DEADLINE;

fn report_on(name: &str, messages: &[&str]) -> Report {
    let object = ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("shop", name) };
    let diagnostic = |message: &&str| Diagnostic {
        code: Code::InvalidPort,
        object: object.clone(),
        field: "spec.ingress[0].ports[0].port".to_owned(),
        message: (*message).to_owned(),
    };
    let diagnostics = messages.iter().map(diagnostic).collect();
    Report { object, uid: Arc::from("uid-1"), diagnostics }
}

async fn until_events(api: &FakeApi, n_events: usize) {
    let enough = async {
        while api.events().len() < n_events {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let written = tokio::time::timeout(DEADLINE, enough).await;
    assert!(written.is_ok(), "only these events were written: {:#?}", api.events());
}

#[tokio::test]
async fn a_diagnostic_becomes_one_event_however_many_nodes_report_it() {
    let api = FakeApi::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig(&json!({}))).unwrap();
    let access = Access::open(Some(&kubeconfig)).await.unwrap();
    let cancel = CancellationToken::new();
    let mut tasks = Vec::new();
    let mut senders = Vec::new();
    for node in ["node-1", "node-2"] {
        let (sender, receiver) = mpsc::channel(8);
        senders.push(sender);
        let task = report(access.client(), Arc::from(node), receiver, cancel.clone());
        tasks.push(tokio::spawn(task));
    }
    for sender in &senders {
        sender.send(report_on("web", &["is bad", "is worse"])).await.unwrap();
    }
    until_events(&api, 2).await;
    // The last report of both comes after all that they had to say before.
    for (sender, name) in senders.iter().zip(["a", "b"]) {
        sender.send(report_on("web", &["is bad", "is worse"])).await.unwrap();
        sender.send(report_on(name, &["is last"])).await.unwrap();
    }
    until_events(&api, 4).await;
    let mut notes: Vec<_> = api
        .events()
        .iter()
        .filter(|event| event["regarding"]["name"] == "web")
        .map(|event| event["note"].as_str().unwrap().to_owned())
        .collect();
    notes.sort();
    let field = "spec.ingress[0].ports[0].port";
    assert_eq!(notes, [format!("{field}: is bad"), format!("{field}: is worse")]);
    let event = &api.events()[0];
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reason"], "InvalidPort");
    assert_eq!(event["regarding"]["uid"], "uid-1");
    cancel.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}
