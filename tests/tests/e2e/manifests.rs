//! A real server accepts the manifests in `deploy`.

use std::fs;

use netpol_lab::cluster::{Cluster, skip};
use netpol_lab::deployment::{at, folder, kustomize, objects};
use netpol_lab::privilege::{Need, met};
use serde_json::{Value, json};

/// The objects, with the namespace and names replaced by the test's own.
fn moved(mut object: Value, cluster: &Cluster, namespace: &str) -> Value {
    let is_in_namespace = object.pointer("/metadata/namespace").is_some();
    let metadata = object["metadata"].as_object_mut().unwrap();
    if is_in_namespace {
        metadata.insert("namespace".to_owned(), json!(namespace));
    } else {
        let name = cluster.name(metadata["name"].as_str().unwrap());
        metadata.insert("name".to_owned(), json!(format!("{name}-tried")));
    }
    object
}

#[tokio::test]
async fn every_overlay_is_taken_and_so_are_the_pods_of_its_daemon_set() {
    if !met(&[Need::Program("kubectl")]) {
        return;
    }
    let cluster = Cluster::open().await.unwrap();
    let Some(namespace) = cluster.agent_namespace() else {
        skip("only a real server checks manifests");
        return;
    };
    for name in ["overlays/kubeadm-flannel", "overlays/k3s", "uninstall/kubeadm-flannel"] {
        for object in kustomize(name).unwrap() {
            let object = moved(object, &cluster, namespace);
            let tried = cluster.try_create(&object).await;
            // The agent's service account exists already.
            let is_there = |error: &anyhow::Error| format!("{error:#}").contains("already exists");
            assert!(tried.is_ok() || tried.as_ref().is_err_and(is_there), "{name}: {tried:?}");
            if object["kind"] == "DaemonSet" {
                let mut pod = at(&object, "/spec/template").clone();
                pod["apiVersion"] = json!("v1");
                pod["kind"] = json!("Pod");
                pod["metadata"]["namespace"] = json!(namespace);
                pod["metadata"]["name"] = json!("tried");
                cluster.try_create(&pod).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn every_example_is_taken() {
    let cluster = Cluster::open().await.unwrap();
    let Some(namespace) = cluster.agent_namespace() else {
        skip("only a real server checks manifests");
        return;
    };
    for entry in fs::read_dir(folder().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        for mut object in objects(&fs::read_to_string(&path).unwrap()).unwrap() {
            object["metadata"]["namespace"] = json!(namespace);
            let tried = cluster.try_create(&object).await;
            assert!(tried.is_ok(), "{}: {tried:?}", path.display());
        }
    }
}
