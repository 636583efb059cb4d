//! A node of a cluster: pods are network namespaces, the agent is real, and so is the API server, if its programs are there.
//! These tests need root, `ip`, and Debian's CNI plugins.

mod enforcement;
mod starts;

use std::time::Duration;

use anyhow::Result;
use netpol_agent::agent::SourceStatus;
use netpol_lab::cluster::skip;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{Look, until};
use netpol_lab::node::{Host, Lab, Passing, PodSpec, labels};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_policy::model::Kind;

/// Needs of a lab.
const NEEDS: [Need; 4] = [
    Need::Root,
    Need::Program("ip"),
    Need::Program("kubectl"),
    Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
];

/// The pods' port.
const PORT: u16 = 80;

/// Time limit for a watch to recover after an outage of seconds.
const RECOVERY_LIMIT: Duration = Duration::from_secs(45);

/// Allows clients to connect to web over TCP and UDP.
const ALLOW_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress:
    - from: [{ podSelector: { matchLabels: { role: client } } }]
      ports: [{ protocol: TCP, port: 80 }, { protocol: UDP, port: 80 }]
";

/// A node with an agent and the namespace shop, or `None` if the machine lacks something.
fn node(name: &str) -> Result<Option<Lab>> {
    if std::env::var_os("NETPOL_E2E_KUBECONFIG").is_some() {
        skip("the lab's pods could have the same addresses as the cluster's");
        return Ok(None);
    }
    if !met(&NEEDS) {
        return Ok(None);
    }
    let mut lab = Lab::create(name, Wiring::Bridge)?;
    lab.start_cluster()?;
    lab.apply_namespace("shop", &labels(&[]))?;
    lab.start_agent()?;
    Ok(Some(lab))
}

fn pod(name: &str, label: (&str, &str)) -> PodSpec {
    PodSpec::new(&format!("shop/{name}"), &[label], &[PORT])
}

/// Adds the pods web, client, and visitor.
fn add_pods(lab: &mut Lab) -> Result<()> {
    for (name, label) in
        [("web", ("app", "web")), ("client", ("role", "client")), ("visitor", ("role", "visitor"))]
    {
        lab.add_pod(pod(name, label))?;
    }
    Ok(())
}

/// Waits until the pod can connect to web, or cannot, in both families and over both protocols.
fn expect(lab: &Lab, passing: Passing, from: &str) -> Result<()> {
    for protocol in [Tcp, Udp] {
        let from = Host::pod(&format!("shop/{from}"));
        lab.expect(passing, &from, &Host::pod("shop/web"), protocol, PORT)?;
    }
    Ok(())
}

/// Waits until the agent's status has this text for every kind.
fn wait_for_sources(lab: &Lab, wanted: impl Fn(&SourceStatus) -> bool) -> Result<()> {
    until("the sources", RECOVERY_LIMIT, || {
        // An agent that has just started does not listen yet.
        let Ok(status) = lab.status() else { return Ok(Look::NotYet("no agent".to_owned())) };
        let is_told = |kind: &Kind| status.sources.get(kind).is_some_and(&wanted);
        Ok(if Kind::BUILT_IN.iter().all(is_told) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{:?}", status.sources))
        })
    })
}

fn is_synced(source: &SourceStatus) -> bool {
    matches!(source, SourceStatus::Synced { .. })
}

fn is_broken(source: &SourceStatus) -> bool {
    matches!(source, SourceStatus::Broken { .. })
}
