//! ClusterNetworkPolicies decide about real packets, in their tiers, and about live connections and the own node.

use anyhow::{Result, ensure};
use netpol_agent::agent::DropRecord;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Family, Host, Lab, Passing};
use netpol_lab::probe::Protocol::{self, Tcp, Udp};
use netpol_policy::resolve::Tier;

use super::live_flows::wait_until_cut;
use super::{ALLOW_CLIENTS, DENY_WEB, PORT, client, expect, lab, lab_without_agent, visitor, web};

/// A policy for the pods of shop with these rules.
fn policy(name: &str, tier: &str, priority: u16, rules: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{ name: {name} }}\n\
         spec: {{ tier: {tier}, priority: {priority}, \
         subject: {{ namespaces: {{ matchLabels: {{ kubernetes.io/metadata.name: shop }} }} }}, {rules} }}\n"
    )
}

/// An ingress rule for pods with the label `role`.
fn from(action: &str, role: &str) -> String {
    format!(
        "{{ action: {action}, from: [{{ pods: {{ namespaceSelector: {{}}, podSelector: {{ matchLabels: {{ role: {role} }} }} }} }}] }}"
    )
}

fn expect_both(lab: &Lab, client: Passing, visitor: Passing) -> Result<()> {
    for protocol in [Tcp, Udp] {
        expect(lab, client, "shop/client", protocol)?;
        expect(lab, visitor, "shop/visitor", protocol)?;
    }
    Ok(())
}

/// A drop of web for this reason, by this rule of the Admin tier, is listed.
fn expect_drop(lab: &Lab, reason: &str, rule: &str) -> Result<()> {
    let text = lab.agent_config().ask(&["drops", "-o", "json"])?;
    let records: Vec<DropRecord> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let is_it = |record: &DropRecord| {
        record.reason == reason
            && record.is_dropped == (reason == "denied")
            && record.rule.as_deref() == Some(rule)
            && record.tier == Some(Tier::Admin)
    };
    ensure!(records.iter().any(is_it), "no drop for {reason} by {rule}:\n{text}");
    let text = lab.agent_config().ask(&["drops"])?;
    ensure!(text.contains(&format!("denied by {rule} (Admin tier)")), "{text}");
    Ok(())
}

#[test]
fn the_tiers_decide_in_their_order() -> Result<()> {
    check_tiers("tiers", Wiring::Bridge)
}

#[test]
fn the_tiers_decide_in_their_order_over_routed_veths() -> Result<()> {
    check_tiers("tiers-routed", Wiring::Routed)
}

fn check_tiers(name: &str, wiring: Wiring) -> Result<()> {
    let Some(mut lab) = lab_without_agent(name, wiring)? else { return Ok(()) };
    lab.start_agent()?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    let write = |file: &str, content: &str| lab.manifests().write(file, content);
    expect_both(&lab, Passing::Yes, Passing::Yes)?;
    // The Baseline tier is asked because no NetworkPolicy isolates the pod.
    write(
        "baseline.yaml",
        &policy("baseline", "Baseline", 1, &format!("ingress: [{}]", from("Deny", "visitor"))),
    )?;
    expect_both(&lab, Passing::Yes, Passing::No)?;
    // A NetworkPolicy replaces it.
    write("deny.yaml", DENY_WEB)?;
    expect_both(&lab, Passing::No, Passing::No)?;
    // The Admin tier has precedence in both ways.
    write(
        "admin.yaml",
        &policy("admin", "Admin", 5, &format!("ingress: [{}]", from("Accept", "visitor"))),
    )?;
    expect_both(&lab, Passing::No, Passing::Yes)?;
    write("allow.yaml", ALLOW_CLIENTS)?;
    expect_both(&lab, Passing::Yes, Passing::Yes)?;
    write(
        "first.yaml",
        &policy("first", "Admin", 1, "ingress: [{ action: Deny, from: [{ namespaces: {} }] }]"),
    )?;
    expect_both(&lab, Passing::No, Passing::No)?;
    expect_drop(&lab, "denied", "ClusterNetworkPolicy first ingress[0]")?;
    // A rule that passes on skips the rest of the tier.
    write(
        "zeroth.yaml",
        &policy("zeroth", "Admin", 0, &format!("ingress: [{}]", from("Pass", "client"))),
    )?;
    expect_both(&lab, Passing::Yes, Passing::No)?;
    // Audited, it lets pass what the policy after it accepts, and is reported.
    let audited = policy(
        "first",
        "Admin",
        1,
        "ingress: [{ name: nobody, action: Deny, from: [{ namespaces: {} }] }]",
    );
    write(
        "first.yaml",
        &audited.replace("name: first", "name: first, annotations: { netpol/mode: audit }"),
    )?;
    expect_both(&lab, Passing::Yes, Passing::Yes)?;
    expect_drop(&lab, "audited", "ClusterNetworkPolicy first ingress[0] (nobody)")?;
    for file in ["zeroth.yaml", "first.yaml", "admin.yaml", "allow.yaml", "deny.yaml"] {
        lab.manifests().remove(file)?;
    }
    expect_both(&lab, Passing::Yes, Passing::No)?;
    lab.manifests().remove("baseline.yaml")?;
    expect_both(&lab, Passing::Yes, Passing::Yes)
}

#[test]
fn a_deny_cuts_live_connections_and_an_accept_keeps_them() -> Result<()> {
    for (name, protocol, family) in
        [("tier-cut-tcp", Tcp, Family::V4), ("tier-cut-udp", Udp, Family::V6)]
    {
        check_live(name, protocol, family)?;
    }
    Ok(())
}

fn check_live(name: &str, protocol: Protocol, family: Family) -> Result<()> {
    let Some(mut lab) = lab(name)? else { return Ok(()) };
    // The annotation keeps connections against NetworkPolicies only.
    let kept = ALLOW_CLIENTS.replace(
        "namespace: shop }",
        "namespace: shop, annotations: { netpol/existing-connections: keep } }",
    );
    ensure!(kept.contains("keep"), "no annotation in {kept}");
    lab.manifests().write("allow.yaml", &kept)?;
    for pod in [web(), client()] {
        lab.add_pod(pod)?;
    }
    let destination = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
    let mut stream = lab.stream(&Host::pod("shop/client"), protocol, destination, 1000)?;
    stream.wait_for_answers(100)?;
    let deny = policy("deny", "Admin", 1, &format!("ingress: [{}]", from("Deny", "client")));
    lab.manifests().write("admin.yaml", &deny)?;
    wait_until_cut(&mut stream)?;
    let accept = policy("accept", "Admin", 0, &format!("ingress: [{}]", from("Accept", "client")));
    lab.manifests().write("accept.yaml", &accept)?;
    stream.wait_for_answers(100)?;
    // Now nothing but the Admin tier allows it.
    lab.manifests().write("deny.yaml", DENY_WEB)?;
    lab.manifests().remove("allow.yaml")?;
    stream.wait_for_answers(100)?;
    let report = stream.finish()?;
    ensure!(report.error.is_none(), "{report:?}");
    Ok(())
}

#[test]
fn the_own_node_and_networks_are_denied_and_probes_are_not() -> Result<()> {
    let Some(mut lab) = lab("tier-node")? else { return Ok(()) };
    lab.add_pod(web())?;
    let web = Host::pod("shop/web");
    let deny = |to: &str| {
        let rules = format!(
            "ingress: [{{ action: Deny, from: [{{ namespaces: {{}} }}] }}], egress: [{{ action: Deny, to: [{to}] }}]"
        );
        policy("deny", "Admin", 1, &rules)
    };
    lab.expect(Passing::Yes, &web, &Host::Node, Tcp, 443)?;
    lab.expect(Passing::Yes, &web, &Host::Office, Tcp, 443)?;
    lab.manifests().write("admin.yaml", &deny("{ nodes: {} }"))?;
    lab.expect(Passing::No, &web, &Host::Node, Tcp, 443)?;
    lab.expect(Passing::Yes, &web, &Host::Office, Tcp, 443)?;
    for protocol in [Tcp, Udp] {
        lab.expect(Passing::Yes, &Host::Node, &web, protocol, PORT)?;
    }
    lab.manifests().write("admin.yaml", &deny("{ networks: [0.0.0.0/0, \"::/0\"] }"))?;
    lab.expect(Passing::No, &web, &Host::Node, Tcp, 443)?;
    lab.expect(Passing::No, &web, &Host::Office, Tcp, 443)?;
    lab.expect(Passing::Yes, &Host::Node, &web, Tcp, PORT)
}
