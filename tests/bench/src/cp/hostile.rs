//! Row 28: a tenant creates the largest policy that an API server takes, and changes it again and again. Measured is what it
//! costs the agent, and what it costs another tenant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use netpol_lab::fake_api::FakeApi;
use netpol_lab::node::{PodSpec, labels};
use serde_json::{Value, json};

use super::agent::Node;
use crate::scale::Shape;
use crate::{Estimate, Run};

/// The tenant's namespace.
const NAMESPACE: &str = "hostile";
/// The tenant's pods on this node.
const N_LOCAL: usize = 4;
/// Pause between two changes of the policy.
const PAUSE: Duration = Duration::from_millis(250);

/// A policy for all pods of the namespace. Each of its rules selects all pods by another selector.
fn policy(n_rules: usize, version: usize) -> Value {
    let rule = |n: usize| {
        json!({ "from": [{ "podSelector": { "matchExpressions": [
            { "key": format!("k{n}-{version}"), "operator": "DoesNotExist" },
        ] } }] })
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": NAMESPACE, "name": "large" },
        "spec": { "podSelector": {}, "ingress": (0..n_rules).map(rule).collect::<Vec<_>>() },
    })
}

/// A pod of another node, with labels that no other pod has.
fn pod(n: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": NAMESPACE, "name": format!("pod-{n}"), "labels": { "number": n.to_string() } },
        "spec": { "nodeName": "elsewhere", "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIP": format!("10.77.{}.{}", n / 250, n % 250 + 1) },
    })
}

/// Measures.
pub(super) fn measure(run: &mut Run) -> Result<()> {
    let (n_rules, n_pods) = (run.size(11_000, 200), run.size(5_000, 50));
    run.say(&format!("the agent with a policy of {n_rules} rules that selects {n_pods} pods"));
    let empty = Shape { n_namespaces: 1, n_pods: 0, n_policies: 0, n_apps: 1, n_local: 0 };
    let mut node = Node::start(&empty)?;
    node.lab.apply_namespace(NAMESPACE, &labels(&[]))?;
    for n in 0..n_pods {
        node.api.put(pod(n));
    }
    for n in 0..N_LOCAL {
        let number = format!("local-{n}");
        let name = format!("{NAMESPACE}/{number}");
        node.lab.add_pod(PodSpec::new(&name, &[("number", &number)], &[80]))?;
    }
    node.reactions(1)?;
    let before = node.memory("VmHWM")?;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (api, is_over): (Arc<FakeApi>, _) = (Arc::clone(&node.api), Arc::clone(&is_over));
        thread::spawn(move || {
            for version in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                api.put(policy(n_rules, version));
                thread::sleep(PAUSE);
            }
        })
    };
    let times = node.reactions(run.size(100, 3));
    is_over.store(true, Ordering::Relaxed);
    writer.join().ok();
    let times = times?;
    let longest = times.iter().copied().fold(0.0, f64::max);
    let peak = node.memory("VmHWM")?;
    run.note(format!(
        "A tenant's policy of {n_rules} rules for {n_pods} pods, each with labels of its own, changed four times a second: the agent had \
         {peak:.0} MB at the most ({before:.0} MB before), and another namespace's change took {longest:.1} ms at the most.",
    ));
    run.answer("28a", Estimate::exact(peak), "the whole agent, VmHWM")?;
    run.answer(
        "28b",
        Estimate::exact(longest),
        "new labels, to the first packet, the worst of all",
    )?;
    Ok(())
}
