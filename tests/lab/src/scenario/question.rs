//! Rows of a table as connections.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Expectation, Row};
use crate::case::{End, Port, Probe, Protocol};
use crate::wire::{Nat, Packet, SYN, Segment};

/// The port of every client.
const CLIENT_PORT: u16 = 50_321;

/// One connection of a row.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Its text in the table.
    pub(super) text: String,
    pub(super) from: End,
    pub(super) to: End,
    pub(super) what: What,
    pub(super) nat: Nat,
    pub(super) expect: Expectation,
    pub(super) because: Option<String>,
}

/// The packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The first packet to a port.
    Port(Protocol, Port),
    /// An echo request.
    Echo,
    /// A packet of a protocol without ports.
    Other(u8),
}

impl Question {
    /// The connections of a row.
    pub(super) fn of(row: &Row, objects: &[Value]) -> Result<Vec<Self>> {
        let mut questions = Vec::new();
        for from in row.from.items() {
            for to in row.to.items() {
                for port in row.port.items() {
                    let via = row.via.map_or_else(String::new, |via| format!(" via {via}"));
                    questions.push(Self {
                        text: format!("{from} -> {to}{via} {port}"),
                        from: end(from, to, objects).context("from")?,
                        to: end(to, from, objects).context("to")?,
                        what: what(port).with_context(|| format!("port {port}"))?,
                        nat: row.via.map_or(Nat::None, Nat::Destination),
                        expect: row.expect,
                        because: row.because.clone(),
                    });
                }
            }
        }
        Ok(questions)
    }

    /// The question as a probe, for oracles that support only protocols with ports.
    pub(super) fn probe(&self) -> Option<Probe> {
        let What::Port(protocol, port) = &self.what else { return None };
        let (from, to) = (self.from.clone(), self.to.clone());
        Some(Probe { from, to, port: port.clone(), protocol: *protocol })
    }

    /// The first packet; `number` is that of a port name.
    pub(super) fn packet(&self, src: IpAddr, dst: IpAddr, number: u16) -> Packet {
        let segment = match self.what {
            What::Echo => Segment::EchoRequest { id: 7 },
            What::Other(protocol) => Segment::Other(protocol),
            What::Port(Protocol::Tcp, _) => {
                Segment::Tcp { from: CLIENT_PORT, to: number, flags: SYN }
            }
            What::Port(Protocol::Udp, _) => Segment::Udp { from: CLIENT_PORT, to: number },
            What::Port(Protocol::Sctp, _) => Segment::Sctp { from: CLIENT_PORT, to: number },
        };
        Packet { src, dst, segment }
    }
}

/// Parses an end; `host` is the peer's node.
fn end(text: &str, other: &str, objects: &[Value]) -> Result<End> {
    if text == "host" {
        return Ok(End::Address { ip: host_of(other, objects)? });
    }
    let Some((namespace, pod)) = text.split_once('/') else {
        let ip = text.parse().with_context(|| format!("{text} is neither a pod nor an address"))?;
        return Ok(End::Address { ip });
    };
    let (pod, ip) = match pod.split_once('@') {
        None => (pod, None),
        Some((pod, ip)) => (pod, Some(ip.parse().with_context(|| format!("address {ip}"))?)),
    };
    Ok(End::Pod { namespace: namespace.to_owned(), pod: pod.to_owned(), ip })
}

/// The address of a pod's node, of the family of the pod's chosen address.
fn host_of(pod: &str, objects: &[Value]) -> Result<IpAddr> {
    let (pod, ip) = pod.split_once('@').unwrap_or((pod, ""));
    let (namespace, name) = pod.split_once('/').context("the host of an end that is no pod")?;
    let object = |kind: &str, namespace: Option<&str>, name: &str| {
        let text = |object: &Value, pointer: &str| -> Option<String> {
            object.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
        };
        let found = objects.iter().find(|object| {
            text(object, "/kind").as_deref() == Some(kind)
                && text(object, "/metadata/name").as_deref() == Some(name)
                && text(object, "/metadata/namespace").as_deref() == namespace
        });
        found.cloned().with_context(|| format!("there is no {kind} {name}"))
    };
    let pod = object("Pod", Some(namespace), name)?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).context("on no node")?;
    let node = object("Node", None, node)?;
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let wants_v6 = ip.contains(':');
    let is_wanted = |ip: &IpAddr| ip.is_ipv6() == wants_v6;
    let address = |item: &Value| item.get("address")?.as_str()?.parse().ok();
    let found = addresses.into_iter().flatten().filter_map(address).find(is_wanted);
    found.context("the node has no such address")
}

fn what(text: &str) -> Result<What> {
    if text == "ICMP" {
        return Ok(What::Echo);
    }
    let (protocol, port) = text.split_once('/').context("no protocol")?;
    if protocol == "other" {
        return Ok(What::Other(port.parse()?));
    }
    let Some(protocol) = Protocol::ALL.into_iter().find(|known| known.as_str() == protocol) else {
        bail!("unknown protocol {protocol}");
    };
    let port = port.parse().map_or_else(|_| Port::Name(port.to_owned()), Port::Number);
    Ok(What::Port(protocol, port))
}
