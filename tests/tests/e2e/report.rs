//! Diagnostics as Kubernetes Events.

use std::sync::Arc;
use std::time::Duration;

use netpol_kube::{Access, Report, report};
use netpol_lab::cluster::Cluster;
use netpol_lab::watched::{DEADLINE, namespace};
use netpol_policy::model::{Code, Diagnostic, Kind, ObjectName, ObjectRef};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn report_on(shop: &str, name: &str, messages: &[&str]) -> Report {
    let object = ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new(shop, name) };
    let diagnostic = |message: &&str| Diagnostic {
        code: Code::InvalidPort,
        object: object.clone(),
        field: "spec.ingress[0].ports[0].port".to_owned(),
        message: (*message).to_owned(),
    };
    let diagnostics = messages.iter().map(diagnostic).collect();
    Report { object, uid: Arc::from("uid-1"), diagnostics, rank: 0 }
}

async fn until_events(cluster: &Cluster, shop: &str, n_events: usize) -> Vec<Value> {
    let enough = async {
        loop {
            let events = cluster.events(shop).await.unwrap();
            if events.len() >= n_events {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, enough).await.unwrap()
}

#[tokio::test]
async fn a_diagnostic_becomes_one_event_however_many_nodes_report_it() {
    let cluster = Cluster::open().await.unwrap();
    let shop = cluster.name("shop");
    cluster.put(namespace(&shop)).await.unwrap();
    let access = Access::open(Some(&cluster.kubeconfig())).await.unwrap();
    let cancel = CancellationToken::new();
    let mut tasks = Vec::new();
    let mut senders = Vec::new();
    for node in ["node-1", "node-2"] {
        let (sender, receiver) = mpsc::channel(8);
        senders.push(sender);
        let task = report(access.clone(), Arc::from(node), receiver, cancel.clone());
        tasks.push(tokio::spawn(task));
    }
    for sender in &senders {
        sender.send(report_on(&shop, "web", &["is bad", "is worse"])).await.unwrap();
    }
    until_events(&cluster, &shop, 1).await;
    // Both reports are written after all earlier ones.
    for (sender, name) in senders.iter().zip(["a", "b"]) {
        sender.send(report_on(&shop, "web", &["is bad", "is worse"])).await.unwrap();
        sender.send(report_on(&shop, name, &["is last"])).await.unwrap();
    }
    let events = until_events(&cluster, &shop, 3).await;
    let of_web = || events.iter().filter(|event| event["regarding"]["name"] == "web");
    let notes: Vec<_> = of_web().map(|event| event["note"].as_str().unwrap().to_owned()).collect();
    let field = "spec.ingress[0].ports[0].port";
    assert_eq!(notes, [format!("{field}: is bad; {field}: is worse")]);
    for event in of_web() {
        assert_eq!(event["type"], "Warning");
        assert_eq!(event["reason"], "InvalidPort");
        assert_eq!(event["regarding"]["uid"], "uid-1");
    }
    cancel.cancel();
    for task in tasks {
        task.await.unwrap();
    }
}
