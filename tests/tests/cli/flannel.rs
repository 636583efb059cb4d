//! Our plugin in Flannel's own configuration, on an API server in this process.

use std::path::Path;

use netpol_lab::fake_api::FakeApi;
use netpol_lab::flannel::CNI_CONF;
use serde_json::{Value, json};

use crate::output_in;

struct Cluster {
    api: FakeApi,
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    fn new(data: &Value) -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let api = runtime.block_on(FakeApi::start())?;
        api.put(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "kube-flannel", "name": "kube-flannel-cfg" },
            "data": data,
        }));
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("kubeconfig"), api.kubeconfig(&json!({})))?;
        Ok(Self { api, directory, _runtime: runtime })
    }

    fn run(&self, arguments: &str) -> String {
        let path: &Path = self.directory.path();
        output_in(path, &format!("netpol flannel {arguments} --kubeconfig DIR/kubeconfig"), "")
    }

    fn data(&self) -> Value {
        let found = self.api.object("ConfigMap", "kube-flannel", "kube-flannel-cfg");
        found.and_then(|found| found.get("data").cloned()).unwrap_or_default()
    }
}

#[test]
fn the_entry_is_added_once_shown_before_and_every_byte_is_restored() {
    let data = json!({ "cni-conf.json": CNI_CONF, "net-conf.json": "{}" });
    let cluster = Cluster::new(&data).unwrap();
    let shown = cluster.run("install --dry-run");
    assert_eq!(cluster.data(), data, "{shown}");
    let added = "+    {\"type\": \"netpol-cni\", \"capabilities\": {\"bandwidth\": true}},\n";
    assert!(shown.contains(added) && shown.contains("--dry-run"), "{shown}");
    let changed = cluster.run("install");
    assert!(
        changed.starts_with("exit code 0\nConfigMap kube-flannel/kube-flannel-cfg"),
        "{changed}"
    );
    assert!(changed.contains(added) && changed.contains("rollout restart"), "{changed}");
    let with = cluster.data();
    assert!(with["cni-conf.json"].as_str().unwrap().contains("netpol-cni"));
    assert_eq!(with["net-conf.json"], "{}");
    let again = cluster.run("install");
    assert!(again.contains("names netpol-cni already: nothing to change"), "{again}");
    assert_eq!(cluster.data(), with);
    cluster.run("uninstall");
    assert_eq!(cluster.data(), data);
    let again = cluster.run("uninstall");
    assert!(again.contains("does not name netpol-cni: nothing to change"), "{again}");
}

#[test]
fn what_cannot_be_changed_is_named_by_object_and_field() {
    let cluster = Cluster::new(&json!({ "cni-conf.json": "{" })).unwrap();
    for (arguments, expected) in [
        (
            "install",
            "kube-flannel/kube-flannel-cfg: data[\"cni-conf.json\"]: not a valid JSON object",
        ),
        (
            "install --namespace kube-system",
            "ConfigMap kube-system/kube-flannel-cfg does not exist",
        ),
        ("uninstall --config-map other", "ConfigMap kube-flannel/other does not exist"),
    ] {
        let output = cluster.run(arguments);
        assert!(output.starts_with("exit code 2\n") && output.contains(expected), "{output}");
    }
    let cluster = Cluster::new(&json!({})).unwrap();
    let output = cluster.run("install");
    assert!(output.contains("data[\"cni-conf.json\"] is missing"), "{output}");
}
