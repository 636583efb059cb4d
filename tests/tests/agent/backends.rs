//! The backends of Services that no controller lists from pods, as an agent follows them where the own node is judged.
#![expect(clippy::panic, reason = "a harness fails the test")]

use std::collections::BTreeSet;
use std::time::Duration;

use netpol_kube::{Options, follow_backends};
use netpol_lab::watched::DEADLINE;
use netpol_policy::model::ObjectName;
use netpol_policy::source::SourceUpdate;
use netpol_policy::store::Delta;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::published::server;

fn slice(name: &str, service: &str, writer: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": "default", "name": name, "labels": {
            "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": writer,
        } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address] }],
        "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
    })
}

/// Waits until these are the backends of the Service, by address.
async fn expect(updates: &mut mpsc::Receiver<SourceUpdate>, service: &str, addresses: &[&str]) {
    let service = ObjectName::new("default", service);
    let wanted: BTreeSet<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
    let mut last = None;
    let told = timeout(DEADLINE, async {
        while let Some(update) = updates.recv().await {
            for delta in update.deltas {
                let Delta::ListedBackends(listed) = delta else { panic!("{delta:?}") };
                assert!(listed.keys().all(|name| *name == service), "{listed:?}");
                let found = listed.get(&service).into_iter().flatten();
                let found: BTreeSet<String> =
                    found.map(|backend| backend.address.to_string()).collect();
                if found == wanted {
                    return true;
                }
                last = Some(found);
            }
        }
        false
    });
    assert_eq!(told.await, Ok(true), "not {wanted:?}, but {last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_no_controller_writes_are_followed_through_outages() {
    let (api, access) = server().await;
    api.put(slice("web-1", "web", "endpointslice-controller.k8s.io", "10.244.1.9")).unwrap();
    api.put(slice("api-1", "api", "", "192.0.2.1")).unwrap();
    let (out, mut updates) = mpsc::channel(16);
    let options = Options { min_retry: Duration::from_millis(50), ..Options::default() };
    let task = tokio::spawn(follow_backends(access, options, out));
    expect(&mut updates, "api", &["192.0.2.1"]).await;
    api.put(slice("api-2", "api", "somebody", "192.0.2.2")).unwrap();
    expect(&mut updates, "api", &["192.0.2.1", "192.0.2.2"]).await;
    api.put(slice("api-1", "api", "", "192.0.2.3")).unwrap();
    expect(&mut updates, "api", &["192.0.2.2", "192.0.2.3"]).await;

    // One is deleted while the watch is away.
    api.hold();
    api.break_connections();
    api.delete_object("EndpointSlice", "default", "api-1").unwrap();
    api.compact();
    api.release();
    expect(&mut updates, "api", &["192.0.2.2"]).await;
    api.delete_object("EndpointSlice", "default", "api-2").unwrap();
    expect(&mut updates, "api", &[]).await;
    task.abort();
}
