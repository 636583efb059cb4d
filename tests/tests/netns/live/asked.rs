//! `flows`, `policy` and `explain --live` on two agents.

use std::net::TcpStream;

use anyhow::{Result, ensure};
use netpol_lab::node::{Family, Host};

use super::{Live, SECOND};
use crate::{PORT, visitor};

/// Allows the pods of this role to connect to web, and keeps connections that it forbids later.
fn allow(role: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: allow, namespace: shop, annotations: {{ netpol/existing-connections: keep }} }}
spec:
  podSelector: {{ matchLabels: {{ app: web }} }}
  ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ role: {role} }} }} }}] }}]
"
    )
}

#[test]
fn a_connection_whose_rule_is_gone_says_so_and_both_nodes_explain_the_next_one() -> Result<()> {
    let Some(mut live) = Live::start("live-asked")? else { return Ok(()) };
    live.lab.add_pod(visitor())?;
    live.lab.manifests().write("allow.yaml", &allow("visitor"))?;
    let (code, text) = live.output(&["wait", "shop/allow"])?;
    ensure!(code == 0, "{text}");
    let visitor = live.lab.netns(&Host::pod("shop/visitor"))?.clone();
    let mut open = Vec::new();
    for family in [Family::V4, Family::V6] {
        let web = live.lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        open.push(visitor.inside(|| Ok(TcpStream::connect(web)?))?);
    }
    let flows = ["flows", "pod/web", "-n", "shop"];
    let text =
        live.expect(&flows, &["shop/visitor (10.", "shop/visitor (fd00", "shop/allow ingress[0]"])?;
    ensure!(!text.contains("any more"), "{text}");
    let policy = ["policy", "networkpolicy/allow", "-n", "shop"];
    let (code, text) = live.output(&policy)?;
    ensure!(code == 0 && text.contains("concerns 1 pods on 1 nodes"), "{text}");
    let counted = text.lines().any(|line| line.starts_with("ingress[0]   2 "));
    ensure!(counted, "{text}");

    live.lab.manifests().write("allow.yaml", &allow("client"))?;
    let (code, text) = live.output(&["wait", "shop/allow"])?;
    ensure!(code == 0, "{text}");
    let gone = "began by shop/allow ingress[0], which does not allow it any more";
    let text = live.expect(&flows, &["nothing", gone])?;
    ensure!(text.matches(gone).count() == 2, "both families: {text}");

    let explain = |from: &str| {
        let args =
            ["explain", "--cluster", "--live", "--from", from, "--to", "shop/web", "--port", "80"];
        live.output(&args)
    };
    let (code, text) = explain("shop/visitor")?;
    ensure!(code == 1 && text.contains("ingress on node node-1: denied"), "{text}");
    ensure!(!text.contains("differs"), "{text}");
    let (code, text) = explain("shop/client")?;
    ensure!(code == 0, "{text}");
    ensure!(text.contains(&format!("egress on node {SECOND}: allowed")), "{text}");
    drop(open);
    Ok(())
}
