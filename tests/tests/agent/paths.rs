//! The ways to an API server: another of its addresses, and proxies.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use netpol_kube::{Access, addresses, pod};
use netpol_lab::fake_api::ConnectProxy;
use netpol_lab::watched::filled;
use netpol_policy::model::ObjectName;
use serde_json::{Value, json};

/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:1";

/// A kubeconfig for a server.
fn kubeconfig(folder: &Path, cluster: &Value) -> PathBuf {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "fake", "cluster": cluster }],
        "users": [{ "name": "fake", "user": {} }],
        "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
        "current-context": "fake",
    });
    let path = folder.join("kubeconfig");
    let written = fs::write(&path, text.to_string());
    assert!(written.is_ok(), "{written:?}");
    path
}

async fn is_served(access: &Access) -> bool {
    let web = ObjectName::new("shop", "web");
    pod(&access.client(), &web).await.is_ok_and(|(found, _)| found.is_some())
}

/// Through a Service address the server was back only when kube-proxy had written its rules, a minute after a reboot.
#[tokio::test]
async fn a_server_whose_address_does_not_answer_is_reached_at_the_address_seen_last() {
    let folder = tempfile::tempdir().unwrap();
    let api = filled().await;
    api.put_own_address().unwrap();
    let working =
        kubeconfig(folder.path(), &json!({ "server": format!("http://{}", api.address()) }));
    let access = Access::open(Some(&working)).await.unwrap();
    let seen = addresses(&access.client()).await.unwrap();
    assert_eq!(seen, [api.address()]);

    let access = Access::open(Some(&kubeconfig(folder.path(), &json!({ "server": NOBODY })))).await;
    let access = access.unwrap();
    assert!(!is_served(&access).await);
    let nobody: SocketAddr = "127.0.0.1:2".parse().unwrap();
    access.set_alternatives([vec![nobody], seen].concat());
    assert!(is_served(&access).await);
}

#[tokio::test]
async fn a_server_behind_the_proxy_of_its_kubeconfig_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let api = filled().await;
    let proxy = ConnectProxy::start(api.address()).await.unwrap();
    // Only the proxy knows the host.
    let cluster = json!({
        "server": "http://api.invalid:6443",
        "proxy-url": format!("http://{}", proxy.address()),
    });
    let access = Access::open(Some(&kubeconfig(folder.path(), &cluster))).await.unwrap();
    assert!(is_served(&access).await);
    assert_eq!(proxy.asked(), ["CONNECT api.invalid:6443 HTTP/1.1"]);
}

/// The environment belongs to a process, so a program of its own asks: `kubectl-netpol`.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_used_unless_the_environment_excepts_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let api = filled().await;
    let proxy = ConnectProxy::start(api.address()).await.unwrap();
    // Without the proxy this host refuses the connection. It is no loopback address, which the environment would not concern.
    let kubeconfig = kubeconfig(folder.path(), &json!({ "server": "http://0.0.0.0:9" }));
    let run = |no_proxy: &str| {
        let mut command = Command::new(netpol_lab::binaries::binary("kubectl-netpol").unwrap());
        for name in
            ["http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "no_proxy"]
        {
            command.env_remove(name);
        }
        command.env("HTTP_PROXY", format!("http://{}", proxy.address()));
        command.env("NO_PROXY", no_proxy).env("KUBECONFIG", &kubeconfig);
        command.args(["lint", "--cluster"]).output().unwrap()
    };
    let output = tokio::task::block_in_place(|| run("0.0.0.1"));
    assert_ne!(output.status.code(), Some(2), "{output:?}");
    let n_asked = proxy.asked().len();
    assert!(n_asked > 0);
    let output = tokio::task::block_in_place(|| run("0.0.0.0"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(proxy.asked().len(), n_asked, "the proxy was used");
}
