//! Drops on either node, pods that are unprotected, and nodes whose agent has gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use netpol_lab::node::{Family, Host};
use netpol_lab::settings::patience;
use serde_json::json;

use super::{FIRST, Live, SECOND, try_to_connect};
use crate::two_nodes::CLIENT;
use crate::visitor;

/// How late a drop may be shown.
pub(super) const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// web admits nobody; client may only connect to port 80.
pub(super) const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny-web, namespace: shop }
spec: { podSelector: { matchLabels: { app: web } }, policyTypes: [Ingress] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: client-to-80, namespace: shop }
spec:
  podSelector: { matchLabels: { role: client } }
  policyTypes: [Egress]
  egress: [{ ports: [{ port: 80 }] }]
";

#[test]
fn a_drop_on_either_node_is_shown_within_a_second_with_pod_peer_and_policy() -> Result<()> {
    let Some(mut live) = Live::start("live-drops")? else { return Ok(()) };
    live.lab.add_pod(visitor())?;
    live.lab.manifests().write("policies.yaml", POLICIES)?;
    live.expect(&["status", "pod/client", "-n", "shop"], &["isolated: egress"])?;
    live.expect(&["status", "pod/web", "-n", "shop"], &["isolated: ingress"])?;

    let following = live.follow(&["drops", "-n", "shop", "--follow"])?;
    following.expect(&["TIME", "COUNT"])?;
    // Drops that happen before the agents are followed are shown too, but not within a second of them.
    for (port, texts) in
        [(80, ["shop/web", "ingress", "80/TCP"]), (81, ["shop/client", "egress", "81/TCP"])]
    {
        live.knock(port)?;
        following.expect(&texts)?;
    }
    let web = live.lab.addresses(&Host::pod("shop/web"))?.to_owned();
    let [client, _] = CLIENT;
    let peer = format!("shop/client ({client})");
    let of_first = ["shop/web", "ingress", &peer, "80/TCP", "not-allowed", "shop/deny-web"];
    let other = format!("shop/web ({})", web.first().copied().unwrap_or(client));
    let of_second = ["shop/client", "egress", &other, "81/TCP", "not-allowed", "shop/client-to-80"];
    for (port, texts) in [(80, of_first), (81, of_second)] {
        live.knock(port)?;
        let (shown, elapsed) = following.expect(&texts)?;
        println!("after {elapsed:?}: {shown}");
        let limit = (SHOWN_WITHIN + Duration::from_millis(500)) * patience();
        ensure!(elapsed < limit, "after {elapsed:?}: {shown}");
    }

    // The same in IPv6, between two pods of the first node.
    let to = live.lab.socket_address(&Host::pod("shop/web"), Family::V6, 80)?;
    live.lab.netns(&Host::pod("shop/visitor"))?.inside(|| try_to_connect(to))?;
    let (shown, elapsed) =
        following.expect(&["shop/web", "ingress", "shop/visitor (fd00", "shop/deny-web"])?;
    ensure!(elapsed < SHOWN_WITHIN, "after {elapsed:?}: {shown}");

    // In audit mode the packets pass, and are shown.
    let audited = POLICIES
        .replace("name: deny-web, ", "name: deny-web, annotations: { netpol/mode: audit }, ");
    live.lab.manifests().write("policies.yaml", &audited)?;
    live.expect(
        &["status", "pod/web", "-n", "shop"],
        &["audited, so packets are only reported: ingress"],
    )?;
    live.knock(80)?;
    following.expect(&["shop/web", "ingress", "audited", "shop/deny-web"])?;
    drop(following);

    let text = live
        .expect(&["drops", "pod/client", "-n", "shop"], &["shop/deny-web", "shop/client-to-80"])?;
    ensure!(text.contains("audited") && !text.contains("shop/visitor"), "{text}");
    Ok(())
}

#[test]
fn status_names_unprotected_pods_and_the_node_whose_agent_has_gone() -> Result<()> {
    let Some(mut live) = Live::start("live-status")? else { return Ok(()) };
    let (code, text) = live.output(&["status", "-o", "wide"])?;
    ensure!(code == 0 && text.contains(FIRST) && text.contains(SECOND), "{text}");
    live.api.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "lost", "namespace": "shop" },
        "spec": { "nodeName": FIRST, "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.244.1.200" }] },
    }));
    live.expect(
        &["status", "pod/lost", "-n", "shop"],
        &["unprotected: its interface has not been found"],
    )?;
    live.lab.take_agent()?.kill()?;
    let (code, text) = live.output(&["status"])?;
    ensure!(code == 2, "{text}");
    ensure!(text.contains(&format!("node {FIRST} does not answer: no agent answers on")), "{text}");
    ensure!(text.contains("in force"), "the other node is shown: {text}");
    Ok(())
}
