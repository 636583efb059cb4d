//! The start-up taint of a Node.

use netpol_kube::{Access, Removal, minor_version, remove_taint};
use netpol_lab::fake_api::FakeApi;
use netpol_policy::model::Kind;
use serde_json::{Value, json};

const KEY: &str = "netpol.dev/agent-not-ready";

async fn with_taints(taints: &Value) -> anyhow::Result<(FakeApi, Access)> {
    let api = FakeApi::start().await?;
    api.put(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1", "labels": { "a": "b" } },
        "spec": { "podCIDR": "10.244.1.0/24", "taints": taints },
    }));
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig(&json!({})))?;
    let access = Access::open(Some(&kubeconfig)).await?;
    Ok((api, access))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_taint_with_the_key_is_removed_and_once() {
    let other = json!({ "key": "dedicated", "value": "db", "effect": "NoSchedule" });
    let taints = json!([other, { "key": KEY, "effect": "NoSchedule" }]);
    let (api, access) = with_taints(&taints).await.unwrap();
    let client = access.client();
    for expected in [Removal::Removed, Removal::NotThere] {
        assert_eq!(remove_taint(&client, "node-1", KEY).await.unwrap(), expected);
        let node = api.get(Kind::Node, "", "node-1").unwrap();
        assert_eq!(node["spec"], json!({ "podCIDR": "10.244.1.0/24", "taints": [other] }));
        assert_eq!(node["metadata"]["labels"], json!({ "a": "b" }));
    }
    assert_eq!(remove_taint(&client, "node-2", KEY).await.unwrap(), Removal::NotThere);
    assert_eq!(minor_version(&client).await.unwrap(), 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_taints_and_a_server_that_refuses_change_nothing() {
    let (api, access) = with_taints(&Value::Null).await.unwrap();
    let client = access.client();
    assert_eq!(remove_taint(&client, "node-1", KEY).await.unwrap(), Removal::NotThere);
    api.forbid(Some(Kind::Node));
    assert!(remove_taint(&client, "node-1", KEY).await.is_err());
}
