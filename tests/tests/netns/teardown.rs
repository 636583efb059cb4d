//! A namespace is deleted, and its policies before its pods.

use anyhow::{Context as _, Result, ensure};
use netpol_lab::fake_api::FakeApi;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, Passing, Stream};
use netpol_lab::probe::Protocol::{Tcp, Udp};
use netpol_policy::model::Kind;
use serde_json::json;

use super::restarts::n_udp_arrived;
use super::{ALLOW_CLIENTS, PORT, client, expect, lab_without_agent, visitor, web};

/// Interval between datagrams, microseconds.
const PACE_US: u64 = 500;

/// A node with an API server, an isolated pod, and a pod that sends to it without being allowed.
struct Attack {
    lab: Lab,
    api: std::sync::Arc<FakeApi>,
    streams: Vec<Stream>,
    n_before: u64,
}

impl Attack {
    fn begin(name: &str) -> Result<Option<Self>> {
        let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(None) };
        let api = lab.start_api_server()?;
        lab.start_agent()?;
        lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
        for pod in [web(), client(), visitor()] {
            lab.add_pod(pod)?;
        }
        expect(&lab, Passing::No, "shop/visitor", Tcp)?;
        let n_before = n_udp_arrived(&lab)?;
        let mut streams = Vec::new();
        for family in Family::BOTH {
            let web = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
            streams.push(lab.stream(&Host::pod("shop/visitor"), Udp, web, PACE_US)?);
        }
        let mut attack = Self { lab, api, streams, n_before };
        attack.go_on()?;
        Ok(Some(attack))
    }

    /// Marks the namespace as deleted, as the API server does for `kubectl delete namespace`.
    fn terminate(&self) -> Result<()> {
        let found = self.api.get(Kind::Namespace, "", "shop").context("no namespace")?;
        let labels = found.pointer("/metadata/labels").context("no labels")?;
        let terminating = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": "shop",
                "labels": labels,
                "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "status": { "phase": "Terminating" },
        });
        self.api.put(terminating).map(drop).context("the namespace was not changed")
    }

    /// Waits until more datagrams were sent, and checks that none of all arrived.
    fn go_on(&mut self) -> Result<()> {
        for stream in &mut self.streams {
            stream.wait_for_messages(400)?;
        }
        let n_leaked = n_udp_arrived(&self.lab)? - self.n_before;
        ensure!(n_leaked == 0, "{n_leaked} forbidden datagrams arrived");
        Ok(())
    }

    fn wait_for_policy(&self, wanted: &str) -> Result<()> {
        until("the deleted policy in force", LIMIT, || {
            let policies = self.lab.status()?.policies;
            let is_there =
                policies.iter().any(|policy| policy.is_held && *policy.policy.name.name == *wanted);
            Ok(if is_there { Look::Done(()) } else { Look::NotYet(format!("{policies:?}")) })
        })
    }

    /// The namespace is gone, so that the deleted policy is too.
    fn end(self) -> Result<()> {
        let Self { lab, api, streams, n_before: _ } = self;
        for stream in streams {
            stream.finish()?;
        }
        api.delete(Kind::Namespace, "", "shop").context("no namespace")?;
        expect(&lab, Passing::Yes, "shop/visitor", Tcp)
    }
}

/// Of the class of CVE-2024-7598: the policies of a deleted namespace were gone before its pods.
#[test]
fn a_deleted_namespace_takes_no_policy_from_its_running_pods() -> Result<()> {
    let Some(mut attack) = Attack::begin("teardown")? else { return Ok(()) };
    attack.terminate()?;
    attack.lab.manifests().remove("allow.yaml")?;
    attack.wait_for_policy("allow-clients")?;
    attack.go_on()?;
    expect(&attack.lab, Passing::Yes, "shop/client", Tcp)?;
    let probe = ["--from", "shop/client", "--to", "shop/web", "--port", "80"];
    let explained = attack.lab.agent_config().ask(&[&["explain"], &probe[..]].concat())?;
    let sentence = "shop/allow-clients is deleted, and stays in force until its namespace is gone";
    ensure!(explained.contains(sentence), "{explained}");

    // Lists that lack the policy.
    for kind in [Kind::NetworkPolicy, Kind::Namespace] {
        attack.api.forget_asked();
        attack.api.expire_watches(kind);
        until("the list", LIMIT, || {
            let asked = attack.api.asked();
            Ok(if asked.is_empty() { Look::NotYet(format!("{asked:?}")) } else { Look::Done(()) })
        })?;
        attack.go_on()?;
    }
    attack.wait_for_policy("allow-clients")?;

    // The next agent knows nothing of the policy but what is in the maps.
    attack.lab.take_agent()?.kill()?;
    attack.lab.start_agent()?;
    attack.wait_for_policy("isolated-by-earlier-run:web")?;
    attack.go_on()?;
    attack.end()
}

#[test]
fn a_namespace_that_is_deleted_while_no_agent_runs_takes_no_isolation_from_its_pods() -> Result<()>
{
    let Some(mut attack) = Attack::begin("teardown-away")? else { return Ok(()) };
    attack.lab.take_agent()?.kill()?;
    attack.terminate()?;
    attack.lab.manifests().remove("allow.yaml")?;
    attack.go_on()?;
    attack.lab.start_agent()?;
    attack.wait_for_policy("isolated-by-earlier-run:web")?;
    attack.go_on()?;
    attack.end()
}

/// Each kind has its own watch, so the order between kinds is not known.
#[test]
fn a_policy_reported_as_deleted_before_its_namespace_stays_in_force() -> Result<()> {
    let Some(mut attack) = Attack::begin("teardown-late")? else { return Ok(()) };
    attack.api.mute(Some(Kind::Namespace));
    attack.terminate()?;
    attack.lab.manifests().remove("allow.yaml")?;
    attack.wait_for_policy("allow-clients")?;
    attack.go_on()?;
    attack.api.mute(None);
    attack.go_on()?;
    attack.end()
}
