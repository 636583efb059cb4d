//! Another program of the node removes programs of netpol from a device.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpol_agent::agent::Protection;
use netpol_common::maps::ABI_VERSION;
use netpol_datapath::Attaching;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Family, Host, Lab, Passing, Stream};
use netpol_lab::privilege::{Need, met};
use netpol_lab::probe::Protocol::{self, Tcp, Udp};
use netpol_lab::settings::patience;

use super::calm::wait_for_links;
use super::restarts::n_udp_arrived;
use super::{ALLOW_CLIENTS, PORT, client, expect, lab, visitor, web};

/// Shortest gap of a removed filter, at most: the kernel notifies the agent.
const FILTER_GAP: Duration = Duration::from_millis(100);
/// Longest gap: the agent looks once a second.
const LONGEST_GAP: Duration = Duration::from_millis(1500);
/// Interval between the messages of a stream, microseconds.
const PACE_US: u64 = 1000;
/// Number of unanswered messages after which a stream counts as cut.
const N_UNANSWERED: u64 = 40;

/// A lab with web.
fn lab_with_web(name: &str) -> Result<Option<Lab>> {
    if !met(&[Need::Program("tc")]) {
        return Ok(None);
    }
    let Some(mut lab) = lab(name)? else { return Ok(None) };
    lab.manifests().write("allow.yaml", ALLOW_CLIENTS)?;
    lab.add_pod(web())?;
    Ok(Some(lab))
}

/// Adds a client that may connect to web, and a visitor that may not.
fn add_clients(lab: &mut Lab) -> Result<()> {
    [client(), visitor()].into_iter().try_for_each(|pod| lab.add_pod(pod))
}

fn tc(lab: &Lab, args: &[&str]) -> Result<()> {
    let mut command = Command::new("tc");
    command.args(args);
    let output = lab.netns(&Host::Node)?.inside(|| command.output().context("starting tc"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tc {args:?}: {said}");
    Ok(())
}

/// A lab with web, client and visitor, in which programs stay attached to web through filters. Returns it and the name of web's
/// device.
fn lab_with_filters(name: &str) -> Result<Option<(Lab, String)>> {
    let Some(mut lab) = lab_with_web(name)? else { return Ok(None) };
    let (device, _) = lab.host_interface("shop/web")?;
    keep_filters(&lab, &device)?;
    add_clients(&mut lab)?;
    if Attaching::of_this_kernel() == Attaching::Links {
        // The agent migrates an interface once, so it must have found the other filter before the test removes it.
        until("links of all other pods", LIMIT, || {
            let n = lab.status()?.n_awaiting_migration;
            Ok(if n == Some(1) { Look::Done(()) } else { Look::NotYet(format!("{n:?}")) })
        })?;
    }
    Ok(Some((lab, device)))
}

/// Adds a filter of another program, so that ours are not replaced by links.
fn keep_filters(lab: &Lab, device: &str) -> Result<()> {
    for side in ["ingress", "egress"] {
        let filter = ["filter", "add", "dev", device, side, "prio", "9", "bpf", "bytecode"];
        // Matches nothing.
        tc(lab, &[&filter[..], &["1,6 0 0 0,"]].concat())?;
    }
    Ok(())
}

/// Sends the agent a signal.
fn signal(lab: &Lab, signal: &str) -> Result<()> {
    let pid = lab.agent_pid().context("no agent")?.to_string();
    ensure!(Command::new("kill").args([signal, &pid]).status()?.success(), "kill {signal}");
    Ok(())
}

/// Waits until programs have been attached again at pods or other devices as often as this.
fn wait_for_repairs(lab: &Lab, wanted: [u64; 2]) -> Result<()> {
    until("programs that are attached again", LIMIT, || {
        let found = lab.status()?.n_reattached;
        let is_done = found.iter().zip(wanted).all(|(found, wanted)| *found >= wanted);
        Ok(if is_done { Look::Done(()) } else { Look::NotYet(format!("{found:?}")) })
    })
}

fn link_pin(lab: &Lab, ifindex: u32, program: &str) -> PathBuf {
    let links = lab.agent_config().pins.join(format!("v{ABI_VERSION}/links"));
    links.join(format!("{ifindex}-{program}"))
}

/// Removes programs while a denied stream sends a message each millisecond. Returns how many passed, which is the length of the gap in
/// milliseconds. Calls `repaired` as soon as the programs are attached again.
fn leak(
    lab: &Lab,
    remove: impl FnOnce() -> Result<()>,
    repaired: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let web = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let mut stream = lab.stream(&Host::pod("shop/visitor"), Udp, web, PACE_US)?;
    stream.wait_for_messages(100)?;
    let before = n_udp_arrived(lab)?;
    let n_repairs = lab.status()?.n_reattached[0];
    remove()?;
    wait_for_repairs(lab, [n_repairs + 1, 0])?;
    repaired()?;
    let after = until("messages that do not arrive any more", LIMIT, || {
        let n = n_udp_arrived(lab)?;
        stream.wait_for_messages(200)?;
        let now = n_udp_arrived(lab)?;
        Ok(if now == n { Look::Done(n) } else { Look::NotYet(format!("{} more", now - n)) })
    })
    .with_context(|| {
        let flows = lab.agent_config().ask(&["flows"]).unwrap_or_default();
        format!("flows:\n{flows}\nlog of the agent:\n{}", lab.agent_log().unwrap_or_default())
    })?;
    Ok(after - before)
}

/// Asserts that no gap lasts until much after the agent's next look.
fn check_gaps(what: &str, gaps_ms: &[u64]) -> Result<()> {
    let longest = gaps_ms.iter().max().copied().map(Duration::from_millis);
    let is_bounded = longest.is_some_and(|gap| gap <= LONGEST_GAP * patience());
    ensure!(is_bounded, "{what}: gaps of {gaps_ms:?} ms");
    Ok(())
}

/// How often the agent has found removed programs in this way, by its log.
fn n_found_by(lab: &Lab, occasion: &str) -> Result<usize> {
    let occasion = format!("found_by=\"{occasion}\"");
    let log = lab.agent_log()?;
    let repairs = log.lines().filter(|line| line.contains("had been detached by others"));
    Ok(repairs.filter(|line| line.contains(&occasion)).count())
}

/// Of the gaps the shortest counts, because other tests may delay the agent.
#[test]
fn a_removed_qdisc_or_filter_is_attached_again_within_100_ms_and_reported() -> Result<()> {
    let Some((lab, device)) = lab_with_filters("no-qdisc")? else { return Ok(()) };
    expect(&lab, Passing::No, "shop/visitor", Udp)?;
    let repaired = || keep_filters(&lab, &device);
    let (mut of_qdisc, mut of_side) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let remove = || tc(&lab, &["qdisc", "del", "dev", &device, "clsact"]);
        of_qdisc.push(leak(&lab, remove, repaired)?);
        let remove = || tc(&lab, &["filter", "del", "dev", &device, "egress"]);
        of_side.push(leak(&lab, remove, repaired)?);
    }
    println!("gaps in ms: clsact removed {of_qdisc:?}, filters of one side removed {of_side:?}");
    check_gaps("clsact removed", &of_qdisc)?;
    check_gaps("filters of one side removed", &of_side)?;
    for (what, gaps_ms) in [("clsact", &of_qdisc), ("filters of one side", &of_side)] {
        let shortest = gaps_ms.iter().min().copied().map(Duration::from_millis);
        let is_short = shortest.is_some_and(|gap| gap <= FILTER_GAP * patience());
        ensure!(is_short, "{what} removed: gaps of {gaps_ms:?} ms");
    }
    // A look of every second can come first, once or twice in six times.
    let n_notified = n_found_by(&lab, "notification")?;
    ensure!(n_notified >= 3, "{n_notified} of 6 found by a notification: {}", lab.agent_log()?);
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)?;
    let status = lab.status()?;
    ensure!(status.endpoints.iter().all(|e| e.protection == Protection::Ready), "{status:?}");
    let findings: Vec<_> =
        status.diagnostics.iter().filter(|text| text.contains("[programs-detached]")).collect();
    ensure!(findings.len() == 1 && findings[0].starts_with("Pod shop/web: "), "{findings:?}");
    Ok(())
}

#[test]
fn a_detached_link_is_found_within_a_second_and_attached_again() -> Result<()> {
    if Attaching::of_this_kernel() == Attaching::Filters {
        println!("SKIP: this kernel has no TCX links");
        return Ok(());
    }
    let Some(mut lab) = lab_with_web("no-link")? else { return Ok(()) };
    add_clients(&mut lab)?;
    let (_, ifindex) = lab.host_interface("shop/web")?;
    wait_for_links(&lab)?;
    expect(&lab, Passing::No, "shop/visitor", Udp)?;
    let mut gaps_ms = Vec::new();
    for _ in 0..3 {
        // The last reference to a link detaches it.
        let pin = link_pin(&lab, ifindex, "pod_ingress");
        gaps_ms.push(leak(&lab, || Ok(fs::remove_file(&pin)?), || Ok(()))?);
    }
    check_gaps("link removed", &gaps_ms)?;
    // Uplinks likewise.
    let uplink = lab.netns(&Host::Node)?.interface_index("eth0")?;
    fs::remove_file(link_pin(&lab, uplink, "uplink_egress"))?;
    wait_for_repairs(&lab, [3, 1])?;
    ensure!(link_pin(&lab, uplink, "uplink_egress").exists(), "the uplink has no program");
    expect(&lab, Passing::Yes, "shop/client", Tcp)?;
    expect(&lab, Passing::No, "shop/visitor", Tcp)
}

#[test]
fn connections_that_began_while_programs_were_missing_are_cut_and_allowed_ones_go_on() -> Result<()>
{
    // While only the filters towards the pod are missing, its answers to a denied connection are still dropped, except for
    // protocols whose packets do not show what they answer.
    for (name, side, denied) in
        [("gap-both", None, &[Tcp, Udp][..]), ("gap-egress", Some("egress"), &[Udp])]
    {
        let Some((lab, device)) = lab_with_filters(name)? else { return Ok(()) };
        let mut allowed = streams(&lab, "shop/client", &[Tcp, Udp])?;
        // The agent is stopped, so that the gap is long enough for a connection.
        signal(&lab, "-STOP")?;
        match side {
            None => tc(&lab, &["qdisc", "del", "dev", &device, "clsact"])?,
            Some(side) => tc(&lab, &["filter", "del", "dev", &device, side])?,
        }
        let mut denied = streams(&lab, "shop/visitor", denied)?;
        signal(&lab, "-CONT")?;
        wait_for_repairs(&lab, [1, 0])?;
        for (protocol, stream) in &mut denied {
            wait_until_cut(stream).with_context(|| format!("{name}: {protocol}"))?;
        }
        for (protocol, stream) in &mut allowed {
            stream.wait_for_answers(100).with_context(|| format!("{name}: {protocol}"))?;
        }
    }
    Ok(())
}

/// A stream of each of the protocols to web that is answered.
fn streams(lab: &Lab, from: &str, protocols: &[Protocol]) -> Result<Vec<(Protocol, Stream)>> {
    let web = lab.socket_address(&Host::pod("shop/web"), Family::V4, PORT)?;
    let mut streams = Vec::new();
    for protocol in protocols {
        let mut stream = lab.stream(&Host::pod(from), *protocol, web, 2000)?;
        stream.wait_for_answers(50)?;
        streams.push((*protocol, stream));
    }
    Ok(streams)
}

fn wait_until_cut(stream: &mut Stream) -> Result<()> {
    stream.wait_until("the cut", |report| report.n_missing() >= N_UNANSWERED).map(drop)
}
