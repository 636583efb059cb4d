//! A developer, who may not run commands in the agents' pods, sees the drops of a namespace on both nodes, through the observer.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::binaries::binary;
use netpol_lab::node::topology::NODE;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, PodSpec};
use netpol_lab::settings::patience;
use netpol_observer::AUDIENCE;
use serde_json::json;

use super::shown::{POLICIES, SHOWN_WITHIN};
use super::{FIRST, Live, SECOND, try_to_connect};
use crate::two_nodes::CLIENT;

/// The port on which the observer serves the API server.
const API_PORT: u16 = 8443;

/// The observer, on the first node. Dropped, it is killed.
struct Observer(Child);

impl Observer {
    fn start(live: &Live) -> Result<Self> {
        let kubeconfig = live.lab.agent_config().kubeconfig.as_ref().context("no kubeconfig")?;
        let [address, _] = NODE;
        let mut command = Command::new(binary("netpol-agent")?);
        command
            .args(["observe", "--address", &address.to_string(), "--kubeconfig"])
            .arg(kubeconfig);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(live.lab.netns(&Host::Node)?.spawn(&mut command)?))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Two nodes whose agents connect to an observer, and the kubeconfig of ann, who may view the namespace shop.
fn start(name: &str) -> Result<Option<(Live, String)>> {
    let Some(live) = Live::start_observed(name, Some([FIRST, SECOND]))? else { return Ok(None) };
    for node in [FIRST, SECOND] {
        let user = "system:serviceaccount:netpol-system:netpol-agent";
        let extra = json!({ "authentication.kubernetes.io/node-name": [node] });
        live.api.add_token(node, AUDIENCE, user, &extra);
    }
    let node = live.lab.netns(&Host::Node)?.clone();
    let [address, _] = NODE;
    live.api.aggregate(move || node.inside(|| Ok(TcpStream::connect((address, API_PORT))?)))?;
    live.api.add_user("ann", "ann", &[]);
    live.api.allow(|user, deed| {
        let is_viewed = deed.group == "observe.netpol.dev" || deed.resource == "pods";
        user.name == "ann" && is_viewed && deed.namespace.as_deref() == Some("shop")
    });
    let file = live.lab.folder().join("ann");
    std::fs::write(&file, live.api.kubeconfig(&json!({ "token": "ann" })))?;
    Ok(Some((live, file.display().to_string())))
}

#[test]
fn a_developer_sees_drops_of_both_nodes_within_a_second_and_nothing_of_others() -> Result<()> {
    let Some((mut live, ann)) = start("live-observed")? else { return Ok(()) };
    let observer = Observer::start(&live)?;
    live.lab.add_pod(PodSpec::new("ops/probe", &[("app", "probe")], &[80]))?;
    live.lab.manifests().write("policies.yaml", POLICIES)?;
    live.expect(&["status", "pod/client", "-n", "shop"], &["isolated: egress"])?;
    live.expect(&["status", "pod/web", "-n", "shop"], &["isolated: ingress"])?;
    let asked = ["drops", "-n", "shop", "--kubeconfig", &ann];
    let connected = || -> Result<()> {
        until("both agents are connected", LIMIT, || {
            let (code, text) = live.output(&asked)?;
            Ok(if code == 0 { Look::Done(()) } else { Look::NotYet(text) })
        })
    };
    connected()?;

    let following = live.follow(&["drops", "-n", "shop", "--follow", "--kubeconfig", &ann])?;
    following.expect(&["TIME", "COUNT"])?;
    for (port, pod) in [(80, "shop/web"), (81, "shop/client")] {
        live.knock(port)?;
        following.expect(&[pod, &format!("{port}/TCP")])?;
    }
    let web = live.lab.addresses(&Host::pod("shop/web"))?.to_owned();
    let [client, _] = CLIENT;
    let peer = format!("shop/client ({client})");
    let other = format!("shop/web ({})", web.first().copied().unwrap_or(client));
    for (port, texts) in [
        (80, ["shop/web", "ingress", &peer, "not-allowed", "shop/deny-web"]),
        (81, ["shop/client", "egress", &other, "not-allowed", "shop/client-to-80"]),
    ] {
        live.knock(port)?;
        let (shown, elapsed) = following.expect(&texts)?;
        println!("after {elapsed:?}: {shown}");
        let limit = (SHOWN_WITHIN + Duration::from_millis(500)) * patience();
        ensure!(elapsed < limit, "after {elapsed:?}: {shown}");
    }

    // A pod of another namespace has no name here.
    let to = live.lab.socket_address(&Host::pod("shop/web"), Family::V4, 80)?;
    let probe = Host::pod("ops/probe");
    live.lab.netns(&probe)?.inside(|| try_to_connect(to))?;
    let address = live.lab.addresses(&probe)?.first().copied().context("no address")?;
    let (shown, _) = following.expect(&["shop/web", "ingress", &address.to_string()])?;
    ensure!(!shown.contains("ops/probe"), "{shown}");

    let text = live.output(&["flows", "client", "-n", "shop", "--kubeconfig", &ann])?.1;
    ensure!(!text.contains("forbidden"), "{text}");
    let port = ["--port", "81", "--cluster", "--live", "--kubeconfig", &ann];
    let explained = [&["explain", "--from", "shop/client", "--to", "shop/web"][..], &port].concat();
    let (code, text) = live.output(&explained)?;
    ensure!(code == 1 && text.contains(&format!("egress on node {SECOND}")), "{text}");
    ensure!(text.contains(&format!("ingress on node {FIRST}")), "{text}");
    let (code, text) = live.output(&["drops", "-n", "ops", "--kubeconfig", &ann])?;
    ensure!(code == 2 && text.contains("forbidden"), "{text}");

    // The observer starts again, with another certificate: agents and the watch find it.
    drop(observer);
    let _observer = Observer::start(&live)?;
    connected()?;
    live.knock(81)?;
    following.expect(&["shop/client", "egress", "81/TCP"])?;
    Ok(())
}
