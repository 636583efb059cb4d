//! A lab whose hosts send raw frames and record the frames that arrive.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use netpol_lab::node::nat::feed;
use netpol_lab::node::netns::Netns;
use netpol_lab::node::topology::Wiring;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Bridge, Host, Lab, PodSpec, labels};
use netpol_lab::privilege::{Need, met};
use serde_json::{Value, json};

/// Sends the frames listed on standard input in hexadecimal through a device.
const SEND: &str = "
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
for line in sys.stdin:
    out.send(bytes.fromhex(line))
";

/// Prints the frames that arrive at a device, in hexadecimal, until one contains the mark.
const RECORD: &str = "
import socket, sys
device, mark = sys.argv[1], bytes.fromhex(sys.argv[2])
record = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
record.bind((device, 3))
record.settimeout(20)
print('ready', flush=True)
while True:
    frame, address = record.recvfrom(65535)
    if address[2] == socket.PACKET_OUTGOING:
        continue
    if mark in frame:
        break
    print(frame.hex(), flush=True)
";

/// Sends a datagram with the mark.
const MARK: &str = "
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 4000))
";

/// The payload of the datagram that ends a recording.
const LAST: &str = "6e6574706f6c206c617374206672616d65";

/// Whether these tests can run here.
pub(crate) fn can_run() -> bool {
    met(&[
        Need::Root,
        Need::Program("nft"),
        Need::Program("python3"),
        Need::File { path: "/usr/lib/cni/bridge", from: "containernetworking-plugins" },
    ])
}

/// On what the attacks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The kernel's newest way to attach programs, and a bridge whose packets netfilter does not see.
    Default,
    /// Programs in clsact filters, as on kernels before 6.6.
    Clsact,
    /// Netfilter sees bridged packets (`br_netfilter`), as Kubernetes requires with iptables.
    Filtered,
    /// Both.
    ClsactFiltered,
}

impl Variant {
    /// The variant of this test.
    pub(crate) fn current() -> Self {
        VARIANT.get()
    }

    /// Runs a test on this variant, unless the machine lacks what it needs.
    pub(crate) fn run(self, test: fn()) {
        if self.is_filtered() && !met(&[FILTERED_BRIDGE]) {
            return;
        }
        VARIANT.set(self);
        test();
    }

    fn is_filtered(self) -> bool {
        matches!(self, Self::Filtered | Self::ClsactFiltered)
    }

    /// The bridge of labs.
    pub(crate) fn bridge(self) -> Bridge {
        if self.is_filtered() { Bridge::Filtered } else { Bridge::Plain }
    }

    /// The name of a lab.
    pub(crate) fn name(self, name: &str) -> String {
        match self {
            Self::Default => name.to_owned(),
            Self::Clsact => format!("{name}-c"),
            Self::Filtered => format!("{name}-f"),
            Self::ClsactFiltered => format!("{name}-cf"),
        }
    }

    /// Options of the agent.
    pub(crate) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Default | Self::Filtered => &[],
            Self::Clsact | Self::ClsactFiltered => &["--attach", "clsact"],
        }
    }
}

const FILTERED_BRIDGE: Need =
    Need::File { path: "/proc/sys/net/bridge", from: "the kernel module br_netfilter" };

thread_local! {
    static VARIANT: Cell<Variant> = const { Cell::new(Variant::Default) };
}

/// A lab with an agent and these pods of the namespace `default`, each with its name as label `app`; `None` if the machine lacks
/// something. Netfilter does not see bridged packets, because it would reject frames with wrong checksums.
pub(crate) fn lab(name: &str, pods: &[&str]) -> Option<Lab> {
    if !can_run() {
        return None;
    }
    let variant = Variant::current();
    let mut lab = Lab::create(&variant.name(name), Wiring::Bridge).unwrap();
    lab.set_options(variant.options());
    lab.apply_namespace("default", &labels(&[])).unwrap();
    // Without the kernel module there is nothing to switch off.
    lab.set_bridge(variant.bridge()).ok();
    lab.start_agent().unwrap();
    for pod in pods {
        lab.add_pod(PodSpec::new(&format!("default/{pod}"), &[("app", pod)], &[80])).unwrap();
    }
    Some(lab)
}

/// A pod of the namespace `default`.
pub(crate) fn pod(name: &str) -> Host {
    Host::Pod(format!("default/{name}"))
}

/// The addresses of a pod of the namespace `default`.
pub(crate) fn addresses(lab: &Lab, name: &str) -> (Ipv4Addr, Ipv6Addr) {
    match *lab.addresses(&pod(name)).unwrap() {
        [IpAddr::V4(v4), IpAddr::V6(v6)] => (v4, v6),
        ref others => panic!("{name} has the addresses {others:?}"),
    }
}

/// The MAC address of a device.
pub(crate) fn mac(netns: &Netns, device: &str) -> [u8; 6] {
    let mut command = Command::new("ip");
    command.args(["-o", "link", "show", device]);
    let output = netns.inside(|| Ok(command.output()?)).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("link/ether ").expect("the device has a MAC address");
    let bytes = rest.split(' ').next().unwrap().split(':');
    let bytes: Vec<u8> = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The MAC address of a pod of the namespace `default`.
pub(crate) fn pod_mac(lab: &Lab, name: &str) -> [u8; 6] {
    mac(lab.netns(&pod(name)).unwrap(), "eth0")
}

/// An Ethernet frame.
pub(crate) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, content: &[u8]) -> Vec<u8> {
    [to.as_slice(), &from, &ethertype.to_be_bytes(), content].concat()
}

/// An ICMPv6 message with its checksum; `body` follows the checksum.
pub(crate) fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    with_checksum((src, dst), 58, 2, [&[kind, 0, 0, 0], body].concat())
}

/// An IPv6 payload with its checksum, which starts at byte `at`.
pub(crate) fn with_checksum(
    (src, dst): (Ipv6Addr, Ipv6Addr),
    protocol: u8,
    at: usize,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    let mut summed = [src.octets(), dst.octets()].concat();
    summed.extend(len);
    summed.extend([0, 0, 0, protocol]);
    summed.extend(&message);
    let words = summed.chunks(2).map(|pair| match *pair {
        [hi, lo] => u32::from(u16::from_be_bytes([hi, lo])),
        [hi] => u32::from(u16::from_be_bytes([hi, 0])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    message.splice(at..at + 2, checksum.to_be_bytes());
    message
}

/// Creates a policy of the namespace `default` that selects an endpoint, and waits until it is in force.
pub(crate) fn apply_policy(lab: &Lab, name: &str, spec: &Value) -> Result<()> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": "default", "name": name },
        "spec": spec,
    });
    lab.manifests().write_object(&format!("policy-{name}.yaml"), &object)?;
    until("the policy", LIMIT, || {
        let status = lab.agent_config().ask(&["status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let policies = status.get("policies").context("no policies")?.to_string();
        let is_in_force = status.get("is_in_force") == Some(&json!(true));
        let is_known = is_in_force && policies.contains(name);
        Ok(if is_known { Look::Done(()) } else { Look::NotYet(status.to_string()) })
    })
}

/// Sends frames from one host and records the frames that arrive at another.
///
/// # Errors
/// A program could not be run, or the datagram that ends the recording did not arrive.
pub(crate) fn record(
    lab: &Lab,
    from: &Host,
    to: &Host,
    frames: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>> {
    record_at(lab.netns(to)?, device(to), || {
        send(lab, from, frames)?;
        send_last(lab, to)
    })
}

/// Records the frames that arrive at a device, until `send` has sent the last datagram there.
///
/// # Errors
/// As [`record`].
pub(crate) fn record_at(
    netns: &Netns,
    device: &str,
    send: impl FnOnce() -> Result<()>,
) -> Result<Vec<Vec<u8>>> {
    let mut recorder = Command::new("python3");
    recorder.args(["-c", RECORD, device, LAST]);
    recorder.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut recorder = netns.spawn(&mut recorder)?;
    let mut output = BufReader::new(recorder.stdout.take().context("no output")?);
    let mut ready = String::new();
    output.read_line(&mut ready)?;
    ensure!(ready == "ready\n", "the recorder said {ready:?}");
    send()?;
    let mut lines = String::new();
    output.read_to_string(&mut lines)?;
    let ended = recorder.wait_with_output()?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    lines.lines().map(bytes).collect()
}

/// Sends frames from one host. Returns for each whether it arrived at another, whatever happened to its tags, and to its hop limit
/// if the node routed it.
///
/// # Errors
/// As [`record`].
pub(crate) fn arrivals(lab: &Lab, from: &Host, to: &Host, frames: &[Vec<u8>]) -> Result<Vec<bool>> {
    let recorded = record(lab, from, to, frames)?;
    let comparable = match from {
        Host::Office | Host::Guest => unrouted,
        Host::Pod(_) | Host::Node => |frame: &[u8]| content(frame).to_vec(),
    };
    let recorded: Vec<_> = recorded.iter().map(|recorded| comparable(recorded)).collect();
    let arrived = |frame: &Vec<u8>| {
        let sent = comparable(frame);
        recorded.iter().any(|recorded| recorded.ends_with(&sent))
    };
    Ok(frames.iter().map(arrived).collect())
}

/// Checks which of these frames arrive, each given with its name and whether it should arrive.
pub(crate) fn check(lab: &Lab, from: &Host, to: &Host, frames: &[(&str, Vec<u8>, Arrival)]) {
    let sent: Vec<_> = frames.iter().map(|(_, frame, _)| frame.clone()).collect();
    let arrived = arrivals(lab, from, to, &sent).unwrap();
    let mut wrong = Vec::new();
    for ((name, _, expected), arrived) in frames.iter().zip(arrived) {
        if arrived != (*expected == Arrival::Yes) {
            wrong.push(format!("{name} {}", if arrived { "arrived" } else { "did not arrive" }));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "from {from:?} to {to:?}");
}

/// [`check`] from the pod `evil` to the pod `target`: while no policy selects `evil`, and while one isolates its egress and allows
/// everything.
pub(crate) fn check_isolated_or_not(lab: &Lab, frames: &[(&str, Vec<u8>, Arrival)]) {
    check(lab, &pod("evil"), &pod("target"), frames);
    let everything = json!({
        "podSelector": { "matchLabels": { "app": "evil" } },
        "policyTypes": ["Egress"],
        "egress": [{}],
    });
    apply_policy(lab, "open-egress", &everything).unwrap();
    check(lab, &pod("evil"), &pod("target"), frames);
}

/// Whether a frame should arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It should.
    Yes,
    /// It should not.
    No,
}

/// Sends frames from a host.
///
/// # Errors
/// Python could not be run, or the kernel refuses a frame.
pub(crate) fn send(lab: &Lab, from: &Host, frames: &[Vec<u8>]) -> Result<()> {
    let mut lines = String::new();
    for frame in frames {
        for byte in frame {
            write!(lines, "{byte:02x}")?;
        }
        lines.push('\n');
    }
    feed(lab.netns(from)?, Command::new("python3").args(["-c", SEND, device(from)]), &lines)
}

/// Sends the datagram that ends a recording: from the node, whose packets no policy drops, or from a pod to the node.
fn send_last(lab: &Lab, to: &Host) -> Result<()> {
    let sender = if *to == Host::Node { &pod("target") } else { &Host::Node };
    let [IpAddr::V4(address), ..] = lab.addresses(to)? else { bail!("{to:?} has no IPv4 address") };
    send_last_to(lab.netns(sender)?, IpAddr::V4(*address))
}

/// Sends the datagram that ends a recording to an IPv4 address.
pub(crate) fn send_last_to(sender: &Netns, to: IpAddr) -> Result<()> {
    let to = to.to_string();
    feed(sender, Command::new("python3").args(["-c", MARK, LAST, &to]), "")
}

/// The device that connects a host.
fn device(host: &Host) -> &'static str {
    match host {
        // The pods' bridge.
        Host::Node => "cni0",
        Host::Pod(_) | Host::Office | Host::Guest => "eth0",
    }
}

/// The content of a frame without what a router changes.
pub(crate) fn unrouted(frame: &[u8]) -> Vec<u8> {
    let mut content = content(frame).to_vec();
    let changed: &[usize] = match content.first().map(|first| first >> 4) {
        // The time to live and the checksum.
        Some(4) => &[8, 10, 11],
        // The hop limit.
        Some(6) => &[7],
        _ => &[],
    };
    for at in changed {
        content.get_mut(*at).into_iter().for_each(|byte| *byte = 0);
    }
    content
}

/// The frame behind its Ethernet header and tags.
fn content(frame: &[u8]) -> &[u8] {
    let (ethertype, content) = frame.split_at(14);
    match ethertype {
        [.., 0x81, 0x00] | [.., 0x88, 0xa8] => content_of_tag(content),
        _ => content,
    }
}

fn content_of_tag(tag: &[u8]) -> &[u8] {
    let (ethertype, content) = tag.split_at(4);
    match ethertype {
        [.., 0x81, 0x00] | [.., 0x88, 0xa8] => content_of_tag(content),
        _ => content,
    }
}

fn bytes(line: &str) -> Result<Vec<u8>> {
    let digits: Vec<char> = line.chars().collect();
    let byte = |pair: &[char]| {
        u8::from_str_radix(&pair.iter().collect::<String>(), 16).context("no hexadecimal")
    };
    digits.chunks(2).map(byte).collect()
}
