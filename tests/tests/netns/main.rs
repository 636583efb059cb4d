//! Pods as network namespaces, the real plugins, the real agent, real packets.
//!
//! Every test has its own lab, named after it. The tests need root, `ip`, and Debian's CNI plugins.
#![forbid(unsafe_code)]

mod calm;
mod cluster_policies;
mod crowd;
mod detached;
mod edits;
mod faults;
mod first_packet;
mod known_at_once;
mod learn;
mod leavings;
mod live;
mod live_flows;
mod netfilter;
mod older;
mod policies;
mod restarts;
mod sctp;
mod short_cut;
mod short_cut_life;
mod short_cut_nodes;
mod surface;
mod taint;
mod teardown;
mod tiers_across_nodes;
mod two_nodes;
mod unannounced;
mod upgrade;
mod wedged;

use anyhow::Result;
use netpol_datapath::{Datapath, Mount};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Host, Lab, Passing, PodSpec, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol;

/// Needs of a lab.
const NEEDS: [Need; 3] = [
    Need::Root,
    Need::Program("ip"),
    Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
];

/// The pods' port.
const PORT: u16 = 80;

/// Isolates all pods of shop in both directions.
const DENY_ALL: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny-all, namespace: shop }
spec: { podSelector: {}, policyTypes: [Ingress, Egress] }
";

/// Denies all connections to web.
const DENY_WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny-web, namespace: shop }
spec: { podSelector: { matchLabels: { app: web } }, policyTypes: [Ingress] }
";

/// Allows clients to connect to web over TCP and UDP.
const ALLOW_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: allow-clients, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress:
    - from: [{ podSelector: { matchLabels: { role: client } } }]
      ports: [{ protocol: TCP, port: 80 }, { protocol: UDP, port: 80 }]
";

/// A lab with the namespace shop and a running agent, or `None` if the machine lacks something.
fn lab(name: &str) -> Result<Option<Lab>> {
    let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(None) };
    lab.start_agent()?;
    Ok(Some(lab))
}

fn lab_without_agent(name: &str, wiring: Wiring) -> Result<Option<Lab>> {
    if !met(&NEEDS) {
        return Ok(None);
    }
    let lab = Lab::create(name, wiring)?;
    lab.apply_namespace("shop", &labels(&[]))?;
    Ok(Some(lab))
}

fn web() -> PodSpec {
    PodSpec::new("shop/web", &[("app", "web")], &[PORT])
}

fn client() -> PodSpec {
    PodSpec::new("shop/client", &[("role", "client")], &[PORT])
}

/// A pod that no policy selects or allows.
fn visitor() -> PodSpec {
    PodSpec::new("shop/visitor", &[("role", "visitor")], &[PORT])
}

/// Waits until `from` can connect to web, or cannot, in both families.
fn expect(lab: &Lab, passing: Passing, from: &str, protocol: Protocol) -> Result<()> {
    lab.expect(passing, &Host::pod(from), &Host::pod("shop/web"), protocol, PORT)
}

/// The pinned maps, opened alongside the agent.
fn maps(lab: &Lab) -> Result<Datapath> {
    let config = netpol_datapath::Config {
        pin_root: Some(lab.agent_config().pins.clone()),
        mount: Mount::Never,
        ..netpol_datapath::Config::default()
    };
    Ok(Datapath::load(&config)?)
}
