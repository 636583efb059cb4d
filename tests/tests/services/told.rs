//! Output for operators: drops as they happen, and flows with the rule that allows them.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use netpol_agent::agent::{DropRecord, FlowRecord};
use netpol_common::ids::Direction;
use netpol_lab::binaries::binary;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Lab, Passing};
use netpol_lab::probe::Probe;
use serde_json::json;

use crate::cluster::{apply_policy, can_run, expect, lab, pod, sockets};

/// `netpol-agent drops -f`, writing to a file. Dropped, it is killed.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn follow(lab: &Lab) -> (Follower, std::path::PathBuf) {
    let path = lab.folder().join("drops.jsonl");
    let mut command = Command::new(binary("netpol-agent").unwrap());
    command.args(["drops", "-f", "-o", "json", "--socket"]).arg(lab.agent_config().socket());
    command.stdin(Stdio::null()).stdout(File::create(&path).unwrap());
    (Follower(command.spawn().unwrap()), path)
}

#[test]
fn drops_are_followed_and_connections_are_listed_with_pods_and_policies() {
    if !can_run() {
        return;
    }
    let lab = lab("told", &["client", "stranger", "web"], |_| Ok(()));
    let spec = json!({
        "podSelector": { "matchLabels": { "app": "web" } },
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }],
    });
    apply_policy(&lab, "allow-client", &json!({}), &spec);
    let web = sockets(&lab, &pod("web"), 80);
    let (_follower, path) = follow(&lab);
    expect(&lab, &pod("client"), &[(Passing::Yes, web.clone())]);
    expect(&lab, &pod("stranger"), &[(Passing::No, web.clone())]);
    for addr in web {
        until(&format!("a drop to {addr}, followed"), LIMIT, || {
            lab.probe(&[(pod("stranger"), vec![Probe::tcp(addr)])])?;
            let text = std::fs::read_to_string(&path)?;
            let mut records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            let is_told = |record: DropRecord| {
                record.destination == addr.ip()
                    && record.destination_port == addr.port()
                    && record.protocol == "TCP"
                    && record.direction == Direction::Ingress
                    && record.is_dropped
                    && record.reason == "not-allowed"
                    && record.pod.is_some_and(|pod| pod.to_string() == "default/web")
                    && record.peer.is_some_and(|pod| pod.to_string() == "default/stranger")
                    && record.policies.iter().map(ToString::to_string).eq(["default/allow-client"])
            };
            Ok(if records.any(is_told) { Look::Done(()) } else { Look::NotYet(text) })
        })
        .unwrap();
        // After the policy is in force, because older connections have no allowing rule.
        lab.probe(&[(pod("client"), vec![Probe::tcp(addr)])]).unwrap();
        let flows = lab.agent_config().ask(&["flows", "-o", "json"]).unwrap();
        let flows: Vec<FlowRecord> = serde_json::from_str(&flows).unwrap();
        let is_told = |flow: &FlowRecord| {
            flow.pod.to_string() == "default/web"
                && flow.origin == Direction::Ingress
                && flow.protocol == "TCP"
                && flow.local_port == addr.port()
                && flow.remote.is_ipv4() == addr.is_ipv4()
                && flow.peer.as_ref().is_some_and(|peer| peer.to_string() == "default/client")
                && flow.rule.as_ref().is_some_and(|rule| rule.contains("allow-client"))
        };
        assert!(flows.iter().any(is_told), "{flows:#?}");
    }
}
