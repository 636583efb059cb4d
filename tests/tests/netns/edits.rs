//! Connections that stay allowed, while policies, labels and agents change.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use netpol_common::keys::CounterKey;
use netpol_common::reason::Verdict;
use netpol_lab::node::{Family, Host, Lab, Passing, labels};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_policy::dataplane::Counter;
use netpol_policy::dataplane::port::Maps as _;

use super::{ALLOW_CLIENTS, DENY_ALL, PORT, client, expect, lab, maps, visitor, web};

/// How often everything is changed and changed back.
const N_ROUNDS: usize = 5;

/// Answers of each stream between two changes.
const N_ANSWERS: u64 = 20;

/// Allows clients to send to web.
const ALLOW_EGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: allow-egress, namespace: shop }
spec:
  podSelector: { matchLabels: { role: client } }
  policyTypes: [Egress]
  egress:
    - to: [{ podSelector: { matchLabels: { app: web } } }]
";

/// Number of dropped packets, for any reason.
fn drops(lab: &Lab) -> Result<BTreeMap<CounterKey, Counter>> {
    let mut counters = maps(lab)?.counters()?;
    counters.retain(|key, _| !Verdict::try_from(key.verdict).is_ok_and(Verdict::is_pass));
    Ok(counters)
}

/// Checks drop counters and TCP retransmissions.
#[test]
fn no_packet_of_an_allowed_connection_drops_while_all_around_it_is_edited() -> Result<()> {
    let Some(mut lab) = lab("edits")? else { return Ok(()) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    let mut streams = Vec::new();
    for family in Family::BOTH {
        let web = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        for protocol in [Tcp, Udp] {
            streams.push(lab.stream(&Host::pod("shop/client"), protocol, web, 1000)?);
        }
    }
    let mut flow = |n: u64| -> Result<()> {
        streams.iter_mut().try_for_each(|stream| stream.wait_for_answers(n).map(drop))
    };
    flow(N_ANSWERS)?;
    let before = drops(&lab)?;
    for round in 0..N_ROUNDS {
        lab.manifests().write("egress.yaml", ALLOW_EGRESS)?;
        flow(N_ANSWERS)?;
        lab.manifests().write("deny.yaml", DENY_ALL)?;
        flow(N_ANSWERS)?;
        lab.relabel("shop/visitor", &labels(&[("role", "client")]))?;
        flow(N_ANSWERS)?;
        if round == N_ROUNDS / 2 {
            lab.take_agent()?.kill()?;
            flow(N_ANSWERS)?;
            lab.start_agent()?;
            flow(N_ANSWERS)?;
        }
        lab.relabel("shop/visitor", &labels(&[("role", "visitor")]))?;
        lab.manifests().remove("deny.yaml")?;
        flow(N_ANSWERS)?;
        lab.manifests().remove("egress.yaml")?;
        flow(N_ANSWERS)?;
    }
    let after = drops(&lab)?;
    ensure!(after == before, "{after:?} instead of {before:?}");
    for stream in streams {
        let report = stream.finish()?;
        ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
    }
    Ok(())
}
