//! Pod start: the time that a container runtime waits for CNI, with and without our plugin.
//!
//! In: the real plugins, and the real agent with a policy that selects every pod. Out: the time from the start of the first
//! plugin to the end of the last one, for single pods and for 30 at once. The agent knows the Pod objects beforehand, as in a
//! cluster, where kubelet and agent watch the same API server.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::clock::nanos;
use super::gates::Unit;
use super::{Run, Series};
use netpol_lab::binaries;
use netpol_lab::node::cni::{Container, Network};
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::{Host, Lab, PodSpec, labels};

/// Number of pods started at once, as when another node is drained.
const N_PARALLEL: usize = 30;
/// Number of ADDs whose median is one sample of the series of single pods.
const N_SERIAL: usize = 5;

const NAMESPACE: &str = "shop";
const LAB: &str = "bench-cni";

/// Selects every pod in both directions, with peers by label and by block, so that the agent does all kinds of work.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: everything, namespace: shop }
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ from: [{ podSelector: {} }], ports: [{ port: 80 }] }]
  egress: [{ to: [{ podSelector: {} }, { ipBlock: { cidr: 192.0.2.0/24, except: [192.0.2.128/25] } }] }]
";

/// A plugin chain that connects a pod.
struct Chain {
    name: &'static str,
    network: Network,
}

const PEER: &str = "bridge and host-local";
const CHAINED: &str = "bridge, host-local and netpol-cni chained";
const MAIN: &str = "netpol-cni and host-local";

/// Measures rows 18a and 18b.
///
/// # Errors
/// The lab cannot be made, or an ADD or DEL fails.
pub fn measure(run: &mut Run) -> Result<()> {
    let mut lab = Lab::create(LAB, Wiring::Bridge)?;
    lab.apply_namespace(NAMESPACE, &labels(&[]))?;
    lab.manifests().write("policy.yaml", POLICY)?;
    let n_pods = run.size(N_PARALLEL, 4);
    let mut containers = Vec::new();
    for number in 0..n_pods {
        let spec = PodSpec::new(&format!("{NAMESPACE}/pod-{number}"), &[("app", "web")], &[]);
        let netns = lab.prepare_pod(&spec)?;
        containers.push(lab.container(&spec, &netns));
    }
    lab.start_agent()?;
    let mut chains = chains(&lab)?;
    // Warm-up: creates the bridge, fills the agent's caches and the page cache.
    for chain in &chains {
        at_once(chain, &containers)?;
    }

    let n_serial = run.size(N_SERIAL, 1);
    let title = "one ADD, median of five";
    let serial = run.interleaved(title, Unit::Millis, &mut chains, Chain::name, |chain, _| {
        one_by_one(chain, containers.iter().cycle().take(n_serial))
    })?;
    let serial = serial.over(PEER).noted("One pod after the other, IPv4 and IPv6.");
    run.answer("18a", serial.ratio(MAIN, PEER)?, "")?;
    run.answer("18b", serial.added(CHAINED)?, "")?;
    run.add(serial);

    let parallel = all_at_once(run, &mut chains, &containers)?;
    run.add(parallel);
    Ok(())
}

fn all_at_once(run: &mut Run, chains: &mut [Chain], containers: &[Container]) -> Result<Series> {
    let title = "30 ADDs at once, until the last one is answered";
    let series = run.interleaved(title, Unit::Millis, chains, Chain::name, |chain, _| {
        at_once(chain, containers)
    })?;
    Ok(series.over(PEER).noted("As when a node takes over the pods of another one."))
}

impl Chain {
    fn name(&self) -> String {
        self.name.to_owned()
    }
}

fn chains(lab: &Lab) -> Result<Vec<Chain>> {
    let node = lab.netns(&Host::Node)?;
    let plugin = binaries::binary("netpol-cni")?;
    let folders = [Path::new("/usr/lib/cni"), plugin.parent().context("netpol-cni has no folder")?];
    let socket = lab.agent_config().socket();
    let ipam = json!({
        "type": "host-local",
        "dataDir": lab.folder().join("ipam"),
        "ranges": [[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }]],
    });
    let bridge = json!({
        "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipam": ipam,
    });
    let capabilities = json!({ "bandwidth": true });
    let chained =
        json!({ "type": "netpol-cni", "agentSocket": socket, "capabilities": capabilities });
    let main = json!({
        "type": "netpol-cni", "agentSocket": socket, "capabilities": capabilities, "ipam": ipam,
    });
    let chain = |name, plugins: Value| -> Result<Chain> {
        let conflist = json!({ "cniVersion": "1.0.0", "name": "lab", "plugins": plugins });
        Ok(Chain {
            name,
            network: Network::new(node, &folders, &conflist, lab.folder().join("results"))?,
        })
    };
    Ok(vec![
        chain(PEER, json!([bridge]))?,
        chain(CHAINED, json!([bridge, chained]))?,
        chain(MAIN, json!([main]))?,
    ])
}

/// The median time of an ADD, milliseconds.
fn one_by_one<'a>(chain: &Chain, containers: impl Iterator<Item = &'a Container>) -> Result<f64> {
    let mut times = Vec::new();
    for container in containers {
        let (time_ns, result) = nanos(|| chain.network.add(container))?;
        chain.network.del(container, Some(&result))?;
        times.push(time_ns / 1e6);
    }
    Ok(super::stats::median(&times))
}

/// The time until all of them are connected, milliseconds.
fn at_once(chain: &Chain, containers: &[Container]) -> Result<f64> {
    let (time_ns, results) = nanos(|| {
        chain.network.add_at_once(containers.iter()).into_iter().collect::<Result<Vec<_>>>()
    })?;
    for (container, result) in containers.iter().zip(&results) {
        chain.network.del(container, Some(result))?;
    }
    Ok(time_ns / 1e6)
}
