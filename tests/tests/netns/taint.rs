//! The start-up taint: pods are scheduled to a node once its agent serves.

use anyhow::{Context as _, Result, ensure};
use netpol_lab::fake_api::FakeApi;
use netpol_lab::node::topology::{NODE_NAME, Wiring};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_policy::model::Kind;
use serde_json::{Value, json};

use super::{lab_without_agent, web};

const KEY: &str = "netpol.dev/agent-not-ready";

fn put_tainted(api: &FakeApi) -> Result<()> {
    let mut node = api.get(Kind::Node, "", NODE_NAME).context("no Node")?;
    let spec = json!({ "taints": [
        { "key": KEY, "effect": "NoSchedule" }, { "key": "other", "effect": "NoExecute" },
    ] });
    node.as_object_mut().context("no object")?.insert("spec".to_owned(), spec);
    api.put(node).context("the Node is not put")?;
    Ok(())
}

fn keys(api: &FakeApi) -> Result<Vec<String>> {
    let node = api.get(Kind::Node, "", NODE_NAME).context("no Node")?;
    let taints = node.pointer("/spec/taints").and_then(Value::as_array).cloned();
    let key = |taint: &Value| Some(taint.get("key")?.as_str()?.to_owned());
    Ok(taints.unwrap_or_default().iter().filter_map(key).collect())
}

#[test]
fn the_agent_removes_its_taint_when_it_serves_and_not_before() -> Result<()> {
    let Some(mut lab) = lab_without_agent("taint", Wiring::Bridge)? else { return Ok(()) };
    let api = lab.start_api_server()?;
    put_tainted(&api)?;
    lab.set_prefix(vec!["env".to_owned(), format!("NETPOL_STARTUP_TAINT={KEY}")]);
    // Without a list of pods no policy is in force.
    api.forbid(Some(Kind::Pod));
    lab.begin_agent()?;
    until("the refused list", LIMIT, || {
        let log = lab.agent_log()?;
        Ok(if log.contains("403") { Look::Done(()) } else { Look::NotYet(log) })
    })?;
    ensure!(keys(&api)? == [KEY, "other"]);
    api.forbid(None);
    lab.wait_for_agent()?;
    until("the removal of the taint", LIMIT, || {
        let keys = keys(&api)?;
        Ok(if keys == ["other"] { Look::Done(()) } else { Look::NotYet(format!("{keys:?}")) })
    })?;
    lab.add_pod(web())
}

#[test]
fn an_older_server_keeps_the_taint_and_the_agent_serves() -> Result<()> {
    let Some(mut lab) = lab_without_agent("taint-older", Wiring::Bridge)? else { return Ok(()) };
    let api = lab.start_api_server()?;
    api.set_minor_version(29);
    put_tainted(&api)?;
    lab.set_prefix(vec!["env".to_owned(), format!("NETPOL_STARTUP_TAINT={KEY}")]);
    lab.start_agent()?;
    until("the reason", LIMIT, || {
        let log = lab.agent_log()?;
        let is_said = log.contains("start-up taint not removed") && log.contains("Kubernetes 1.29");
        Ok(if is_said { Look::Done(()) } else { Look::NotYet(log) })
    })?;
    ensure!(keys(&api)? == [KEY, "other"]);
    lab.add_pod(web())
}
