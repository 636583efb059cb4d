//! The agent's own sockets, attacked by a pod that no policy lets talk to anybody.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netpol_agent::agent::Protection;
use netpol_datapath::Attaching;
use netpol_lab::node::topology::{NODE, Wiring};
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, PodSpec};
use netpol_lab::privilege::{Need, met};
use netpol_lab::settings::patience;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::calm::wait_for_links;
use super::{DENY_ALL, PORT, lab_without_agent, visitor};

const HEALTH: u16 = 9470;
const METRICS: u16 = 9471;

/// Connections that the pod opens.
const N_CONNECTIONS: usize = 3000;

/// The agent's limit of open files, in the test.
const N_FILES: u64 = 1024;

fn request(address: IpAddr, port: u16, path: &str) -> Result<String> {
    request_type(address, port, path, "*/*")
}

/// As [`request`], for an answer of these media types.
fn request_type(address: IpAddr, port: u16, path: &str, accept: &str) -> Result<String> {
    let address = SocketAddr::new(address, port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2) * patience())?;
    stream.set_read_timeout(Some(Duration::from_secs(2) * patience()))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn memory_kib(lab: &Lab) -> Result<u64> {
    let pid = lab.agent_pid().context("no agent")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    Ok(line.context("no RssAnon")?.trim().trim_end_matches(" kB").parse()?)
}

/// 17,600 connections took 407 MB of the agent, and with 1,024 descriptors an ADD waited for 20 seconds.
#[test]
#[expect(clippy::disallowed_methods, reason = "the duration of an ADD is measured")]
fn a_pod_that_floods_the_agent_with_connections_delays_no_pod_and_no_probe() -> Result<()> {
    if !met(&[Need::Program("prlimit")]) {
        return Ok(());
    }
    let Some(mut lab) = lab_without_agent("flooded", Wiring::Bridge)? else { return Ok(()) };
    let words = [
        "prlimit".to_owned(),
        format!("--nofile={N_FILES}:{N_FILES}"),
        "env".to_owned(),
        format!("NETPOL_HEALTH=localhost:{HEALTH}"),
        format!("NETPOL_METRICS=[::]:{METRICS}"),
    ];
    lab.set_prefix(words.to_vec());
    lab.start_agent()?;
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    lab.add_pod(visitor())?;
    // As much is done once before, because the allocator keeps what that and the migration to links take.
    lab.add_pod(PodSpec::new("shop/early", &[], &[PORT]))?;
    let metrics = || request(Ipv4Addr::LOCALHOST.into(), METRICS, "/metrics");
    lab.netns(&Host::Node)?.inside(metrics)?;
    if Attaching::of_this_kernel() == Attaching::Links {
        wait_for_links(&lab)?;
    }
    let before_kib = memory_kib(&lab)?;

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let pod = lab.netns(&Host::pod("shop/visitor"))?.clone();
    let connections = pod.inside(|| {
        for address in NODE {
            ensure!(
                request(address, HEALTH, "/livez").is_err(),
                "the pod reaches the kubelet's port"
            );
        }
        let mut connections = Vec::new();
        for n in 0..N_CONNECTIONS {
            let address = SocketAddr::new(NODE[n % NODE.len()], METRICS);
            // The agent refuses most of them.
            let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1))
            else {
                continue;
            };
            // An answer that nobody reads, or half a request.
            let is_whole = n % 2 == 0;
            let end: &[u8] = if is_whole { b"\r\n\r\n" } else { b"" };
            let sent = stream.write_all(&[b"GET /metrics HTTP/1.1\r\nHost: x", end].concat());
            if sent.is_ok() {
                connections.push(stream);
            }
        }
        Ok(connections)
    })?;

    let begin = Instant::now();
    lab.add_pod(PodSpec::new("shop/late", &[], &[PORT]))?;
    let add = begin.elapsed();
    let node = lab.netns(&Host::Node)?;
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let answer = node.inside(|| request(address, HEALTH, "/livez"))?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{address}: {answer}");
        // Another client is not kept from the metrics by the pod.
        let answer = node.inside(|| request(address, METRICS, "/metrics"))?;
        ensure!(answer.contains("netpol_in_force 1"), "{address}: {answer}");
    }
    let grown_kib = memory_kib(&lab)?.saturating_sub(before_kib);
    println!("{} connections: ADD {add:?}, {grown_kib} KiB more", connections.len());
    ensure!(add < Duration::from_secs(5) * patience(), "the ADD took {add:?}");
    ensure!(grown_kib < 4 << 10, "the agent takes {grown_kib} KiB more");
    Ok(())
}

/// promtool took the lines about counters for those of other metrics.
#[test]
fn metrics_are_plain_text_without_findings_unless_the_client_asks_for_openmetrics() -> Result<()> {
    if !met(&[Need::Program("promtool")]) {
        return Ok(());
    }
    let Some(mut lab) = lab_without_agent("plain", Wiring::Bridge)? else { return Ok(()) };
    lab.set_prefix(vec!["env".to_owned(), format!("NETPOL_METRICS=[::]:{METRICS}")]);
    lab.start_agent()?;
    lab.add_pod(visitor())?;
    let ask = |accept: &str| {
        let ask = || request_type(Ipv4Addr::LOCALHOST.into(), METRICS, "/metrics", accept);
        lab.netns(&Host::Node)?.inside(ask)
    };
    let open = ask("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")?;
    ensure!(open.contains("application/openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
    let plain = ask("*/*")?;
    let (head, body) = plain.split_once("\r\n\r\n").context("no body")?;
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().context("no input")?.write_all(body.as_bytes())?;
    let output = promtool.wait_with_output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{body}");
    Ok(())
}

#[test]
fn a_pod_that_deletes_its_own_interface_does_not_make_the_agent_unready() -> Result<()> {
    let Some(mut lab) = lab_without_agent("unplugged", Wiring::Bridge)? else { return Ok(()) };
    lab.set_prefix(vec!["env".to_owned(), format!("NETPOL_HEALTH=localhost:{HEALTH}")]);
    lab.start_agent()?;
    lab.add_pod(visitor())?;
    lab.netns(&Host::pod("shop/visitor"))?.configure("link delete eth0\n")?;
    let expect = |lab: &Lab| {
        until("the pod named as disconnected", LIMIT, || {
            let endpoints = lab.status()?.endpoints;
            let [endpoint] = &endpoints[..] else { bail!("{endpoints:?}") };
            Ok(match endpoint.protection {
                Protection::Disconnected => Look::Done(()),
                Protection::Ready | Protection::Blocked | Protection::Unprotected => {
                    Look::NotYet(format!("{endpoint:?}"))
                }
            })
        })?;
        let ready = || request(Ipv4Addr::LOCALHOST.into(), HEALTH, "/readyz");
        until("the readiness of the agent", LIMIT, || {
            let answer = lab.netns(&Host::Node)?.inside(ready)?;
            let is_ready = answer.starts_with("HTTP/1.1 200 ");
            Ok(if is_ready { Look::Done(()) } else { Look::NotYet(answer) })
        })?;
        let log = lab.agent_log()?;
        ensure!(log.contains("shop/visitor") && log.contains("disconnected"), "{log}");
        Ok(())
    };
    expect(&lab)?;
    // The next agent knows it too, or a rollout would stop there.
    lab.take_agent()?.kill()?;
    lab.start_agent()?;
    expect(&lab)?;
    let status = lab.agent_config().ask(&["status"])?;
    ensure!(status.contains("its interface was deleted"), "{status}");
    Ok(())
}
