//! Connections between pods of a node that pass neither the bridge nor netfilter.

use std::io::Read as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::netns::Netns;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Bridge, Family, Host, Lab, Passing, PodSpec, Stream};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol;
use netpol_policy::dataplane::port::Flows as _;
use serde_json::Value;

use super::live_flows::wait_until_cut;
use super::{ALLOW_CLIENTS, DENY_WEB, PORT, client, expect, lab_without_agent, maps, visitor, web};

/// A lab whose agent has these options, with web and a client whose connections the policy allows; `None` if the machine lacks
/// something.
fn with_options(name: &str, options: &[&str]) -> Result<Option<Lab>> {
    if !met(&[Need::Program("nft")]) {
        return Ok(None);
    }
    let Some(mut lab) = lab_without_agent(name, Wiring::Bridge)? else { return Ok(None) };
    lab.set_options(options);
    lab.start_agent()?;
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    for pod in [web(), client(), visitor()] {
        lab.add_pod(pod)?;
    }
    nft(&lab, &["add", "table", "bridge", "seen"])?;
    nft(&lab, &["add chain bridge seen forward { type filter hook forward priority 0; }"])?;
    nft(&lab, &["add rule bridge seen forward ether type { ip, ip6 } counter"])?;
    Ok(Some(lab))
}

/// Runs `nft` on the node.
pub(super) fn nft(lab: &Lab, args: &[&str]) -> Result<String> {
    nft_in(lab.netns(&Host::Node)?, args)
}

/// Runs `nft` in a namespace.
pub(super) fn nft_in(netns: &Netns, args: &[&str]) -> Result<String> {
    let mut command = Command::new("nft");
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = netns.spawn(&mut command)?.wait_with_output()?;
    ensure!(output.status.success(), "nft {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Number of IP packets that the bridge has forwarded.
fn n_bridged(lab: &Lab) -> Result<u64> {
    let listed = nft(lab, &["list", "chain", "bridge", "seen", "forward"])?;
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).context("no counter")?.parse().context("no number")
}

/// Waits until the connections of these pods take the short cut, or none does for this reason.
pub(super) fn wait_for(lab: &Lab, pods: &[&str], expected: &str) -> Result<()> {
    until("the short cut", LIMIT, || {
        let status: Value =
            serde_json::from_str(&lab.agent_config().ask(&["status", "-o", "json"])?)?;
        let endpoints = status.get("endpoints").and_then(Value::as_array);
        let endpoints = endpoints.context("no endpoints")?;
        let is_so = |pod: &&str| {
            let (namespace, name) = pod.split_once('/').unwrap_or_default();
            endpoints.iter().any(|endpoint| {
                let has =
                    |at, value: &str| endpoint.pointer(at).and_then(Value::as_str) == Some(value);
                has("/pod/namespace", namespace)
                    && has("/pod/name", name)
                    && has("/short_cut", expected)
            })
        };
        Ok(if pods.iter().all(is_so) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{endpoints:?}"))
        })
    })
}

/// More packets on the bridge than neighbour discovery sends, and less than those of the connections.
const FEW: u64 = 80;

const BOTH: [&str; 2] = ["shop/web", "shop/client"];

#[test]
fn packets_of_allowed_connections_pass_no_bridge() -> Result<()> {
    let Some(lab) = with_options("short-cut", &["--short-cut", "on"])? else { return Ok(()) };
    wait_for(&lab, &BOTH, "on")?;
    for family in [Family::V4, Family::V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let destination = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
            let before = n_bridged(&lab)?;
            let mut stream = lab.stream(&Host::pod("shop/client"), protocol, destination, 1000)?;
            stream.wait_for_answers(200)?;
            let report = stream.finish()?;
            ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
            let n_bridged = n_bridged(&lab)? - before;
            // Neighbour discovery is among them.
            ensure!(n_bridged < FEW, "{protocol:?} {family:?}: {n_bridged} packets on the bridge");
        }
    }
    let flows = maps(&lab)?.flows()?;
    ensure!(flows.values().any(|flow| flow.redirect.0 != 0), "{flows:?}");
    expect(&lab, Passing::No, "shop/visitor", Protocol::Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Protocol::Udp)
}

#[test]
fn a_connection_on_the_short_cut_is_cut_by_a_policy_and_goes_on_when_it_is_allowed_again()
-> Result<()> {
    let Some(lab) = with_options("short-cut-cut", &["--short-cut", "on"])? else { return Ok(()) };
    wait_for(&lab, &BOTH, "on")?;
    let before = n_bridged(&lab)?;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let destination = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
        let mut stream = lab.stream(&Host::pod("shop/client"), protocol, destination, 1000)?;
        stream.wait_for_answers(100)?;
        lab.manifests().write("deny.yaml", DENY_WEB)?;
        lab.manifests().remove("allow.yaml")?;
        wait_until_cut(&mut stream)?;
        lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
        stream.wait_for_answers(100)?;
        let report = stream.finish()?;
        ensure!(report.error.is_none(), "{report:?}");
        if protocol == Protocol::Tcp {
            ensure!(report.n_missing() == 0, "the connection lost bytes: {report:?}");
        }
    }
    let n_bridged = n_bridged(&lab)? - before;
    ensure!(n_bridged < FEW, "{n_bridged} packets on the bridge");
    Ok(())
}

#[test]
fn without_the_option_all_packets_pass_the_bridge() -> Result<()> {
    let Some(lab) = with_options("short-cut-off", &["--short-cut", "off"])? else { return Ok(()) };
    wait_for(&lab, &BOTH, "off")?;
    let destination = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let before = n_bridged(&lab)?;
    let mut stream = lab.stream(&Host::pod("shop/client"), Protocol::Udp, destination, 1000)?;
    stream.wait_for_answers(200)?;
    ensure!(stream.finish()?.error.is_none());
    ensure!(n_bridged(&lab)? - before >= 400);
    Ok(())
}

/// Number of connections that live through a change.
const N_STREAMS: usize = 8;

/// What kube-proxy does with packets that conntrack takes for invalid.
pub(super) const AS_KUBE_PROXY: &str = "
table inet kube-proxy {
    chain forward {
        type filter hook forward priority 0
        ct state invalid counter drop
        ct state established,related accept
    }
}";

/// Streams of both protocols from the client to web, all of which have been answered.
fn streams(lab: &Lab) -> Result<Vec<Stream>> {
    let client = Host::pod("shop/client");
    let mut streams = Vec::new();
    for number in 0..N_STREAMS {
        let family = if number % 2 == 0 { Family::V4 } else { Family::V6 };
        let protocol = if number % 4 < 2 { Protocol::Tcp } else { Protocol::Udp };
        let destination = lab.socket_address(&Host::pod("shop/web"), family, PORT)?;
        streams.push(lab.stream(&client, protocol, destination, 3000)?);
    }
    for stream in &mut streams {
        stream.wait_for_answers(30)?;
    }
    Ok(streams)
}

pub(super) fn all_go_on(streams: &mut [Stream], what: &str) -> Result<()> {
    for stream in streams {
        stream.wait_for_answers(30).with_context(|| what.to_owned())?;
    }
    Ok(())
}

pub(super) fn restart(lab: &mut Lab, option: &str) -> Result<()> {
    lab.take_agent()?.terminate()?;
    lab.set_options(&["--short-cut", option]);
    lab.start_agent()
}

#[test]
fn connections_outlive_the_short_cut_and_conntrack_takes_them_over() -> Result<()> {
    let Some(mut lab) = with_options("short-cut-ends", &["--short-cut", "on"])? else {
        return Ok(());
    };
    lab.set_bridge(Bridge::Filtered)?;
    nft(&lab, &[AS_KUBE_PROXY])?;
    wait_for(&lab, &BOTH, "on")?;
    let before = n_bridged(&lab)?;
    let mut old = streams(&lab)?;
    ensure!(n_bridged(&lab)? - before < FEW);

    lab.take_agent()?.kill()?;
    all_go_on(&mut old, "after kill -9 of the agent")?;
    ensure!(n_bridged(&lab)? - before < FEW);
    lab.start_agent()?;
    wait_for(&lab, &BOTH, "on")?;
    all_go_on(&mut old, "after a restart")?;
    ensure!(n_bridged(&lab)? - before < FEW);

    restart(&mut lab, "off")?;
    wait_for(&lab, &BOTH, "off")?;
    all_go_on(&mut old, "after the short cut was switched off")?;
    let passed = n_bridged(&lab)?;
    ensure!(passed - before > 100, "the bridge sees {} packets", passed - before);

    restart(&mut lab, "on")?;
    wait_for(&lab, &BOTH, "on")?;
    all_go_on(&mut old, "after the short cut was switched on again")?;
    // Conntrack knows them, so they stay where they are.
    let passed = n_bridged(&lab)?;
    all_go_on(&mut old, "on the usual way")?;
    ensure!(n_bridged(&lab)? - passed > 100);
    for stream in old {
        let report = stream.finish()?;
        ensure!(report.error.is_none(), "{report:?}");
    }
    let passed = n_bridged(&lab)?;
    let new = streams(&lab)?;
    ensure!(n_bridged(&lab)? - passed < FEW);
    for stream in new {
        let report = stream.finish()?;
        ensure!(report.error.is_none() && report.n_missing() == 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_pod_with_a_queueing_discipline_another_mtu_or_the_annotation_is_left_out() -> Result<()> {
    let Some(mut lab) = with_options("short-cut-out", &["--short-cut", "on"])? else {
        return Ok(());
    };
    let aloof = PodSpec::new("shop/aloof", &[("role", "client")], &[PORT]);
    lab.add_pod(aloof.clone())?;
    wait_for(&lab, &["shop/web", "shop/client", "shop/aloof"], "on")?;
    lab.manifests().annotate(&aloof.file(), "netpol/short-cut", "off")?;
    wait_for(&lab, &["shop/aloof"], "declined")?;
    let (device, _) = lab.host_interface("shop/web")?;
    let node = lab.netns(&Host::Node)?.clone();
    let tc = |args: &str| -> Result<()> {
        let mut command = Command::new("tc");
        command.args(args.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = node.spawn(&mut command)?.wait_with_output()?;
        ensure!(output.status.success(), "tc {args}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    tc(&format!("qdisc add dev {device} root tbf rate 100mbit burst 64k latency 50ms"))?;
    wait_for(&lab, &["shop/web"], "queue")?;
    tc(&format!("qdisc del dev {device} root"))?;
    wait_for(&lab, &BOTH, "on")?;
    node.configure(&format!("link set dev {device} type bridge_slave isolated on\n"))?;
    wait_for(&lab, &["shop/web"], "bridge")?;
    node.configure(&format!("link set dev {device} type bridge_slave isolated off\n"))?;
    wait_for(&lab, &BOTH, "on")?;
    // The bridge takes over the smallest MTU of its ports.
    node.configure(&format!("link set {device} mtu 1400\n"))?;
    wait_for(&lab, &["shop/client"], "mtu")
}

#[test]
fn packets_that_a_pod_sends_by_the_gateway_arrive() -> Result<()> {
    let Some(lab) = with_options("short-cut-gw", &["--short-cut", "on"])? else { return Ok(()) };
    wait_for(&lab, &BOTH, "on")?;
    let client = lab.netns(&Host::pod("shop/client"))?;
    for address in lab.addresses(&Host::pod("shop/web"))? {
        client.configure(&match address {
            IpAddr::V4(_) => format!("route add {address}/32 via 10.244.1.1\n"),
            IpAddr::V6(_) => format!("route add {address}/128 via fd00:10:244:1::1\n"),
        })?;
    }
    expect(&lab, Passing::Yes, "shop/client", Protocol::Tcp)?;
    expect(&lab, Passing::Yes, "shop/client", Protocol::Udp)
}

/// The FIN is the first packet that conntrack could see of the connection.
#[test]
fn an_idle_connection_closes_after_the_short_cut_has_ended() -> Result<()> {
    let Some(mut lab) = with_options("short-cut-fin", &["--short-cut", "on"])? else {
        return Ok(());
    };
    lab.set_bridge(Bridge::Filtered)?;
    nft(&lab, &[AS_KUBE_PROXY])?;
    wait_for(&lab, &["shop/client", "shop/visitor"], "on")?;
    let address = lab.socket_address(&Host::pod("shop/visitor"), Family::V4, 9999)?;
    let listener =
        lab.netns(&Host::pod("shop/visitor"))?.inside(|| Ok(TcpListener::bind(address)?))?;
    let client =
        lab.netns(&Host::pod("shop/client"))?.inside(|| Ok(TcpStream::connect(address)?))?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(LIMIT))?;
    restart(&mut lab, "off")?;
    wait_for(&lab, &["shop/client", "shop/visitor"], "off")?;
    drop(client);
    ensure!(server.read(&mut [0; 1])? == 0, "it has bytes");
    Ok(())
}

/// Waits until the status has this value here.
fn wait_for_status(lab: &Lab, pointer: &str, expected: &Value) -> Result<()> {
    until("the status", LIMIT, || {
        let status = lab.agent_config().ask(&["status", "-o", "json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let found = status.pointer(pointer);
        Ok(if found == Some(expected) {
            Look::Done(())
        } else {
            Look::NotYet(format!("{pointer}: {found:?}, {:?}", status.get("netfilter")))
        })
    })
}

#[test]
fn a_netfilter_rule_of_others_ends_the_short_cut_and_its_removal_gives_it_back() -> Result<()> {
    let Some(lab) = with_options("short-cut-nf", &["--short-cut", "on"])? else {
        return Ok(());
    };
    lab.set_bridge(Bridge::Filtered)?;
    nft(&lab, &[AS_KUBE_PROXY])?;
    wait_for(&lab, &BOTH, "on")?;
    let mut old = streams(&lab)?;
    wait_for_status(&lab, "/netfilter/rules/n_counting", &1.into())?;
    let rule =
        "add table ip mesh; add chain ip mesh forward { type filter hook forward priority 0; };
        add rule ip mesh forward ip saddr 10.244.0.0/16 tcp dport 80 meta mark set 7";
    nft(&lab, &[rule])?;
    wait_for(&lab, &BOTH, "netfilter")?;
    let expected = "table ip mesh, chain forward: ip saddr 10.244.0.0/16 tcp dport 80 meta";
    wait_for_status(&lab, "/netfilter/rules/altering/0", &expected.into())?;
    let text = lab.agent_config().ask(&["status"])?;
    ensure!(text.contains(expected) && text.contains("no short cut: netfilter"), "{text}");
    let before = n_bridged(&lab)?;
    all_go_on(&mut old, "after a rule of others had appeared")?;
    ensure!(n_bridged(&lab)? - before > 100);
    nft(&lab, &["delete table ip mesh"])?;
    wait_for(&lab, &BOTH, "on")?;
    all_go_on(&mut old, "after the rule was removed")?;
    for stream in old {
        let report = stream.finish()?;
        ensure!(report.error.is_none(), "{report:?}");
    }
    let before = n_bridged(&lab)?;
    let new = streams(&lab)?;
    ensure!(n_bridged(&lab)? - before < FEW);
    for stream in new {
        ensure!(stream.finish()?.error.is_none());
    }
    Ok(())
}

#[test]
fn chains_that_another_engine_has_left_are_named_by_status_and_in_explanations() -> Result<()> {
    let Some(lab) = with_options("short-cut-left", &["--short-cut", "off"])? else {
        return Ok(());
    };
    let explain = ["explain", "--from", "shop/client", "--to", "shop/web", "--port", "80"];
    let denied = ["explain", "--from", "shop/visitor", "--to", "shop/web", "--port", "80"];
    let warns = |text: &str| text.contains("another program may still drop this: kube-router");
    ensure!(!warns(&lab.agent_config().ask(&explain)?));
    nft(
        &lab,
        &[
            "add table ip filter; add chain ip filter KUBE-ROUTER-FORWARD; add chain ip filter KUBE-NWPLCY-DEFAULT",
        ],
    )?;
    wait_for_status(&lab, "/netfilter/engines/kube-router/n", &2.into())?;
    let text = lab.agent_config().ask(&["status"])?;
    ensure!(text.contains("kube-router is here too, or has left 2 tables and chains"), "{text}");
    ensure!(warns(&lab.agent_config().ask(&explain)?));
    let denied = lab.agent_config().ask(&denied);
    ensure!(!denied.is_ok_and(|text| warns(&text)), "the verdict is to deny");
    let (device, _) = lab.host_interface("shop/web")?;
    // A program that passes all packets on.
    let program = "1,6 0 0 4294967295";
    let mut filter = Command::new("sh");
    filter.arg("-c").arg(format!(
        "tc qdisc add dev {device} clsact 2>&1; tc filter add dev {device} egress bpf da bytecode '{program}'"
    ));
    let filter = lab.netns(&Host::Node)?.spawn(filter.stdout(Stdio::null()))?.wait()?;
    ensure!(filter.success(), "no filter: {filter}");
    wait_for_status(&lab, "/netfilter/programs/0/pod/name", &"web".into())?;
    let text = lab.agent_config().ask(&explain)?;
    let expected =
        "the traffic control program of others, without a name, on the interface of shop/web";
    ensure!(text.contains(expected), "{text}");
    Ok(())
}
