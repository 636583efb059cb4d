//! Packets that a pod with `CAP_NET_RAW` cannot send: with foreign addresses, as a router, or past its isolation.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context as _, Result};
use netpol_common::addr::Addr;
use netpol_common::keys::FlowKey;
use netpol_lab::node::nat::feed;
use netpol_lab::node::netns::Netns;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Bridge, Lab, Passing, Watch};
use netpol_lab::privilege::{Need, met};
use netpol_lab::wire::{Packet, Segment};
use netpol_policy::dataplane::port::Flows as _;
use serde_json::{Value, json};

use crate::cluster::{
    apply_policy, can_run, egress_only_to, expect, lab, maps, pod, policy_file, sockets,
};

/// A Python program that sends the frames listed on standard input in hexadecimal.
const SEND: &str = "
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(('eth0', 0))
for line in sys.stdin:
    out.send(bytes.fromhex(line))
";

/// An ethertype for experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// The destination port of the frame that comes last and always passes.
const LAST_PORT: u16 = 4000;

/// Counters of frames that pretend to come from another pod or a router.
const SPOOFED: [&str; 5] = ["udp4", "udp6", "arp_reply", "advertisement", "router"];

/// Counters of frames that are not IP.
const NOT_IP: [&str; 2] = ["tagged", "experiment"];

#[test]
fn a_pod_sends_from_its_own_addresses_only_unless_it_may_forward() {
    if !can_run() || !met(&[Need::Program("python3")]) {
        return;
    }
    // Checksums are wrong, which netfilter would reject.
    let lab =
        lab("spoof", &["evil", "victim", "target"], |lab| lab.set_bridge(Bridge::Plain).or(Ok(())));
    let frames = frames(&lab).unwrap();
    let watch = watch(&lab).unwrap();
    let count = |names: &[&str]| -> Vec<u64> {
        names.iter().map(|name| watch.count(name).unwrap()).collect()
    };
    // Frames of one socket are not reordered, so all earlier frames have arrived with the last one.
    let send = || {
        let n_before = watch.count("last").unwrap();
        let evil = lab.netns(&pod("evil")).unwrap();
        feed(evil, Command::new("python3").args(["-c", SEND]), &frames).unwrap();
        until("the last frame", LIMIT, || {
            let n = watch.count("last")?;
            Ok(if n > n_before { Look::Done(()) } else { Look::NotYet(n.to_string()) })
        })
        .unwrap();
    };

    send();
    assert_eq!(count(&SPOOFED), [0; SPOOFED.len()], "spoofed frames pass");
    assert_eq!(count(&NOT_IP), [0; NOT_IP.len()], "frames pass whose sender cannot be told");
    assert_eq!(flows_with_victim(&lab), Vec::new(), "spoofed frames create flows");
    wait_for_drops(&lab, &["spoofed", "not-ip"]);

    let target = json!([{ "podSelector": { "matchLabels": { "app": "target" } } }]);
    apply_policy(&lab, "egress", &json!({}), &egress_only_to("evil", &target));
    let victim = sockets(&lab, &pod("victim"), 80);
    expect(&lab, &pod("evil"), &[(Passing::No, victim.clone())]);
    send();
    assert_eq!(count(&SPOOFED), [0; SPOOFED.len()], "spoofed frames pass");
    assert_eq!(count(&NOT_IP), [0; NOT_IP.len()], "frames pass the isolation");

    lab.manifests().remove(&policy_file("egress")).unwrap();
    expect(&lab, &pod("evil"), &[(Passing::Yes, victim)]);
    allow_forwarding(&lab, "pod-default-evil.yaml").unwrap();
    send();
    assert_eq!(count(&SPOOFED), [0; SPOOFED.len()], "the namespace does not permit it");
    allow_forwarding(&lab, "namespace-default.yaml").unwrap();
    wait_for_a_forwarding_pod(&lab).unwrap();
    send();
    assert_eq!(
        count(&SPOOFED),
        [0, 0, 0, 0, 1],
        "a pod that may forward acts as a router, and sends from no address of another pod"
    );
    assert_eq!(flows_with_victim(&lab), Vec::new(), "spoofed frames create flows");
}

/// Flows between target and victim, which never communicate.
fn flows_with_victim(lab: &Lab) -> Vec<FlowKey> {
    let target = lab.host_interface("default/target").unwrap().1;
    let victims: Vec<Addr> =
        lab.addresses(&pod("victim")).unwrap().iter().map(|address| (*address).into()).collect();
    let flows = maps(lab).flows().unwrap().into_keys();
    flows.filter(|key| key.ifindex.0 == target && victims.contains(&key.remote)).collect()
}

/// Annotates an object.
fn allow_forwarding(lab: &Lab, file: &str) -> Result<()> {
    lab.manifests().annotate(file, "netpol/allow-forwarding", "true")
}

/// Waits until a pod may forward.
fn wait_for_a_forwarding_pod(lab: &Lab) -> Result<()> {
    until("the permission to forward", LIMIT, || {
        let status = lab.agent_config().ask(&["status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let endpoints = status.get("endpoints").and_then(Value::as_array).context("endpoints")?;
        let forwards = |endpoint: &Value| endpoint.get("forwards") == Some(&json!(true));
        let n = endpoints.iter().filter(|endpoint| forwards(endpoint)).count();
        Ok(if n == 1 { Look::Done(()) } else { Look::NotYet(n.to_string()) })
    })
}

/// Waits until the agent has reported drops for each of these reasons.
fn wait_for_drops(lab: &Lab, reasons: &[&str]) {
    until(&format!("drops with {reasons:?}"), LIMIT, || {
        let drops = lab.agent_config().ask(&["drops", "--output", "json"])?;
        let is_told = |reason: &&str| drops.contains(&format!("\"reason\":\"{reason}\""));
        Ok(if reasons.iter().all(is_told) { Look::Done(()) } else { Look::NotYet(drops) })
    })
    .unwrap();
}

/// Counts the frames that arrive at the target.
fn watch(lab: &Lab) -> Result<Watch> {
    let [v4, v6] = addresses(lab, "victim")?;
    Watch::start(
        lab.netns(&pod("target"))?,
        "netdev",
        "type filter hook ingress device eth0 priority 0",
        &[
            ("udp4", &format!("ip saddr {v4} udp dport 4001")),
            ("udp6", &format!("ip6 saddr {v6} udp dport 4001")),
            ("arp_reply", &format!("arp operation reply arp saddr ip {v4} arp daddr ip {v4}")),
            ("advertisement", "icmpv6 type nd-neighbor-advert ip6 hoplimit 254"),
            ("router", "icmpv6 type nd-router-advert"),
            ("tagged", "vlan id 5"),
            ("experiment", "meta protocol 0x88b5"),
            ("last", &format!("udp dport {LAST_PORT}")),
        ],
    )
}

fn addresses(lab: &Lab, name: &str) -> Result<[IpAddr; 2]> {
    lab.addresses(&pod(name))?.try_into().with_context(|| format!("{name} has not two addresses"))
}

/// The frames that the pod `evil` sends to `target`, as lines; see [`watch`].
fn frames(lab: &Lab) -> Result<String> {
    let own_mac = mac(lab.netns(&pod("evil"))?)?;
    let mac = mac(lab.netns(&pod("target"))?)?;
    let [evil_v4, evil_v6] = addresses(lab, "evil")?;
    let [victim_v4, victim_v6] = addresses(lab, "victim")?;
    let [target_v4, target_v6] = addresses(lab, "target")?;
    let datagram = |src, dst, to| {
        let mut frame = Packet { src, dst, segment: Segment::Udp { from: 4001, to } }.frame();
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&own_mac);
        frame
    };
    let from_victim_v4 = datagram(victim_v4, target_v4, 4001);
    let from_victim_v6 = datagram(victim_v6, target_v6, 4001);
    let last = datagram(evil_v4, target_v4, LAST_PORT);

    let IpAddr::V4(v4) = victim_v4 else { anyhow::bail!("the first address is IPv4") };
    let IpAddr::V6(v6) = victim_v6 else { anyhow::bail!("the second address is IPv6") };
    // A gratuitous ARP reply for the victim's address.
    let mut arp = header([0xff; 6], own_mac, [0x08, 0x06]);
    arp.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    arp.extend(own_mac);
    arp.extend(v4.octets());
    arp.extend([0; 6]);
    arp.extend(v4.octets());

    // The same in IPv6: from the pod's own address, with the victim's as the target.
    let IpAddr::V6(own_v6) = evil_v6 else { anyhow::bail!("the second address is IPv6") };
    let mut advertisement = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    advertisement.extend(v6.octets());
    advertisement.extend([2, 1]);
    advertisement.extend(own_mac);
    let advertisement = icmpv6(own_mac, own_v6, 254, &advertisement);

    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
    let router =
        icmpv6(own_mac, link_local, 255, &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);

    let mut tagged = header(mac, own_mac, [0x81, 0x00]);
    tagged.extend([0, 5]);
    tagged.extend(&datagram(evil_v4, target_v4, 4005)[12..]);
    let mut experiment = header(mac, own_mac, EXPERIMENT);
    experiment.extend([0; 46]);

    let frames =
        [from_victim_v4, from_victim_v6, arp, advertisement, router, tagged, experiment, last];
    let mut lines = String::new();
    for frame in &frames {
        for byte in frame {
            write!(lines, "{byte:02x}")?;
        }
        lines.push('\n');
    }
    Ok(lines)
}

fn header(to: [u8; 6], from: [u8; 6], ethertype: [u8; 2]) -> Vec<u8> {
    [to.as_slice(), &from, &ethertype].concat()
}

/// An ICMPv6 message to all nodes of the link, with a wrong checksum, so that receivers ignore it.
fn icmpv6(own_mac: [u8; 6], src: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = header([0x33, 0x33, 0, 0, 0, 1], own_mac, [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend([58, hop_limit]);
    frame.extend(src.octets());
    frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    frame.extend(message);
    frame
}

/// The hardware address of a pod.
fn mac(netns: &Netns) -> Result<[u8; 6]> {
    let mut command = Command::new("ip");
    command.args(["-o", "link", "show", "eth0"]);
    let output = netns.inside(|| Ok(command.output()?))?;
    let text = String::from_utf8(output.stdout)?;
    let (_, rest) = text.split_once("link/ether ").context("no hardware address")?;
    let bytes = rest.split(' ').next().unwrap_or_default().split(':');
    let bytes: Vec<u8> =
        bytes.map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect::<Result<_>>()?;
    bytes.try_into().ok().context("a hardware address has six bytes")
}
