//! Peers based on netfilter, as rule sets for `nft`, `iptables-restore`, and `ipset`.
//!
//! The rules are written here after the projects' known rule shapes; no code of theirs is used.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::lane::{Family, PORT, peer, pod};
use netpol_lab::node::netns::Netns;

/// Marks of the chains: allowed by a policy, and accepted by all.
const ALLOWED: &str = "0x10000/0x10000";
const DONE: &str = "0x20000/0x20000";

/// A configuration of netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Connection tracking only.
    Conntrack,
    /// nftables: established connections pass, and new ones from a set of addresses.
    NftSet {
        /// How many addresses.
        n_peers: u16,
    },
    /// iptables with an ipset.
    Ipset {
        /// How many addresses.
        n_peers: u16,
    },
    /// iptables with one rule per peer; the last one matches.
    Linear {
        /// How many rules.
        n_peers: u16,
    },
    /// iptables with chains per pod and per policy, and ipsets, as kube-router.
    PodChains {
        /// How many local pods.
        n_pods: u16,
        /// How many addresses in the policy's set.
        n_peers: u16,
    },
}

/// The pods that rules are about. Peers may send to them.
#[derive(Clone, Copy, Debug)]
pub struct Pods {
    /// A pod's address; number 0 is the server.
    pub address: fn(u16, Family) -> IpAddr,
    /// How many pods besides the server may send to it: those from number 1 on.
    pub n_senders: u16,
    /// The protocols of [`PORT`] that are allowed, as nftables and iptables name them.
    pub protocols: &'static [&'static str],
}

/// The pods of a [lane](super::lane).
pub const OF_A_LANE: Pods = Pods { address: pod, n_senders: 0, protocols: &["udp"] };

impl Pods {
    fn server(&self, family: Family) -> IpAddr {
        (self.address)(0, family)
    }

    fn senders(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        (1..=self.n_senders).map(move |number| (self.address)(number, family))
    }
}

impl Rules {
    /// Installs the rules.
    ///
    /// # Errors
    /// A program is missing or refused them.
    pub fn install(self, netns: &Netns, pods: &Pods) -> Result<()> {
        // Network cards verify checksums, so netfilter need not.
        match self {
            Self::Conntrack => nft(netns, &conntrack_only())?,
            Self::NftSet { n_peers } => nft(netns, &nft_set(n_peers, pods))?,
            Self::Ipset { n_peers } => {
                restore(netns, "ipset", &["restore"], &ipset("peers", n_peers))?;
                restore(netns, "iptables-restore", &[], &ipset_rules(pods))?;
            }
            Self::Linear { n_peers } => {
                restore(netns, "iptables-restore", &[], &linear(n_peers, pods))?;
            }
            Self::PodChains { n_pods, n_peers } => {
                restore(netns, "ipset", &["restore"], &pod_sets(n_pods, n_peers, pods))?;
                restore(netns, "iptables-restore", &[], &pod_chains(n_pods, pods))?;
            }
        }
        netns.set("net/netfilter/nf_conntrack_checksum", "0")
    }

    /// Flushes the connection table.
    ///
    /// # Errors
    /// `conntrack` is missing or failed.
    pub fn forget_flows(netns: &Netns) -> Result<()> {
        let output = netns.inside(|| {
            Command::new("conntrack").arg("-F").output().context("starting conntrack")
        })?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "conntrack -F: {}", said.trim());
        Ok(())
    }
}

/// Runs `nft -f` with this input.
///
/// # Errors
/// It is missing, or refused the text.
pub fn nft(netns: &Netns, text: &str) -> Result<()> {
    restore(netns, "nft", &["-f", "-"], text)
}

/// Runs a program in a namespace with this input.
///
/// # Errors
/// It is missing, or refused the text.
pub fn restore(netns: &Netns, program: &str, args: &[&str], text: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = netns.spawn(&mut command)?;
    child.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(())
}

fn conntrack_only() -> String {
    "table inet bench {\nchain forward {\ntype filter hook forward priority 0\n\
     ct state established,related accept\naccept\n}\n}\n"
        .to_owned()
}

/// nftables keywords of a family.
const fn words(family: Family) -> (&'static str, &'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "ipv4_addr", "peers4"),
        Family::V6 => ("ip6", "ipv6_addr", "peers6"),
    }
}

/// Sets of both families in a table, as `nft -f` reads it.
pub fn nft_sets(n_peers: u16) -> String {
    let mut text = String::from("table inet bench {\n");
    for family in [Family::V4, Family::V6] {
        let (_, kind, set) = words(family);
        let peers: Vec<_> = (0..n_peers).map(|number| peer(number, family).to_string()).collect();
        let peers = peers.join(", ");
        _ = writeln!(text, "set {set} {{\ntype {kind}; elements = {{ {peers} }}\n}}");
    }
    text + "}\n"
}

/// One set in a table, as `nft -f` reads it.
pub fn nft_set_v4(n_peers: u16) -> String {
    let peers: Vec<_> = (0..n_peers).map(|number| peer(number, Family::V4).to_string()).collect();
    format!(
        "table ip bench {{\nset peers {{\ntype ipv4_addr; elements = {{ {} }}\n}}\n}}\n",
        peers.join(", ")
    )
}

fn nft_set(n_peers: u16, pods: &Pods) -> String {
    let mut text = nft_sets(n_peers);
    text += "table inet bench {\nchain forward {\ntype filter hook forward priority 0\n\
             ct state established,related accept\n";
    for family in [Family::V4, Family::V6] {
        let (ip, _, set) = words(family);
        let server = pods.server(family);
        for protocol in pods.protocols {
            let to = format!("{ip} daddr {server}");
            _ = writeln!(text, "{to} {ip} saddr @{set} {protocol} dport {PORT} accept");
            for sender in pods.senders(family) {
                _ = writeln!(text, "{to} {ip} saddr {sender} {protocol} dport {PORT} accept");
            }
        }
        _ = writeln!(text, "{ip} daddr {server} drop");
    }
    text + "}\n}\n"
}

/// A set of peers, as `ipset restore` reads it.
pub fn ipset(name: &str, n_peers: u16) -> String {
    let mut text = format!("create {name} hash:ip family inet maxelem 65536\n");
    for number in 0..n_peers {
        _ = writeln!(text, "add {name} {}", peer(number, Family::V4));
    }
    text
}

fn ipset_rules(pods: &Pods) -> String {
    let server = pods.server(Family::V4);
    let mut text = String::from(
        "*filter\n:FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
    );
    for protocol in pods.protocols {
        let to = format!("-A FORWARD -d {server} -p {protocol} --dport {PORT}");
        _ = writeln!(text, "{to} -m set --match-set peers src -j ACCEPT");
        for sender in pods.senders(Family::V4) {
            _ = writeln!(text, "{to} -s {sender} -j ACCEPT");
        }
    }
    _ = writeln!(text, "-A FORWARD -d {server} -j DROP\nCOMMIT");
    text
}

fn linear(n_peers: u16, pods: &Pods) -> String {
    let server = pods.server(Family::V4);
    let mut text = String::from("*filter\n:FORWARD ACCEPT\n");
    for number in 0..n_peers {
        // The sending peers come last.
        let other = std::net::Ipv4Addr::from_bits(0x0ae0_0000 + u32::from(number));
        for protocol in pods.protocols {
            let to = format!("-d {server} -p {protocol} --dport {PORT}");
            _ = writeln!(text, "-A FORWARD -s {other} {to} -j ACCEPT");
        }
    }
    // Peers have even addresses.
    let peers = "10.200.0.0/255.255.0.1".to_owned();
    let senders = pods.senders(Family::V4).map(|sender| sender.to_string());
    for from in senders.chain([peers]) {
        for protocol in pods.protocols {
            let to = format!("-d {server} -p {protocol} --dport {PORT}");
            _ = writeln!(text, "-A FORWARD -s {from} {to} -j ACCEPT");
        }
    }
    _ = writeln!(text, "-A FORWARD -d {server} -j DROP");
    text + "COMMIT\n"
}

fn pod_sets(n_pods: u16, n_peers: u16, pods: &Pods) -> String {
    let mut text = ipset("SRC", n_peers);
    for sender in pods.senders(Family::V4) {
        _ = writeln!(text, "add SRC {sender}");
    }
    text += "create DST hash:ip family inet\n";
    for number in 0..n_pods {
        _ = writeln!(text, "add DST {}", (pods.address)(number, Family::V4));
    }
    text
}

/// The pods in rule order, with the server in the middle, and the first sender behind it.
fn pods_in_order(n_pods: u16) -> impl Iterator<Item = u16> {
    let middle = n_pods.div_ceil(2) + 1;
    (2..middle.min(n_pods)).chain(0..n_pods.min(2)).chain(middle.max(2)..n_pods)
}

fn pod_chains(n_pods: u16, pods: &Pods) -> String {
    let mut text = String::from("*filter\n:FORWARD ACCEPT\n:ROUTER-FORWARD -\n:POLICY -\n");
    for number in 0..n_pods {
        _ = writeln!(text, ":POD-{number} -");
    }
    text += "-A FORWARD -j ROUTER-FORWARD\n";
    for number in pods_in_order(n_pods) {
        let addr = (pods.address)(number, Family::V4);
        _ = writeln!(text, "-A ROUTER-FORWARD -d {addr} -j POD-{number}");
        _ = writeln!(text, "-A ROUTER-FORWARD -s {addr} -j POD-{number}");
        _ = writeln!(text, "-A POD-{number} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        _ = writeln!(text, "-A POD-{number} -m conntrack --ctstate INVALID -j DROP");
        _ = writeln!(text, "-A POD-{number} -d {addr} -m addrtype --src-type LOCAL -j ACCEPT");
        _ = writeln!(text, "-A POD-{number} -d {addr} -j POLICY");
        if (1..=pods.n_senders).contains(&number) {
            _ = writeln!(text, "-A POD-{number} -s {addr} -j POLICY");
        }
        _ = writeln!(text, "-A POD-{number} -m mark ! --mark {ALLOWED} -j DROP");
        _ = writeln!(text, "-A POD-{number} -j MARK --set-xmark 0x0/0x10000");
        _ = writeln!(text, "-A POD-{number} -j MARK --set-xmark {DONE}");
    }
    _ = writeln!(text, "-A ROUTER-FORWARD -m mark --mark {DONE} -j ACCEPT");
    for protocol in pods.protocols {
        _ = writeln!(
            text,
            "-A POLICY -p {protocol} --dport {PORT} -m set --match-set SRC src -m set --match-set DST dst \
             -j MARK --set-xmark {ALLOWED}"
        );
    }
    _ = writeln!(text, "-A POLICY -m mark --mark {ALLOWED} -j RETURN");
    text + "COMMIT\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_in_the_middle_of_the_pods_and_each_has_its_chain_once() {
        for n_pods in [1, 2, 3, 30, 110] {
            let order: Vec<u16> = pods_in_order(n_pods).collect();
            let position = order.iter().position(|number| *number == 0).unwrap();
            assert!(position.abs_diff(usize::from(n_pods) / 2) <= 1, "{order:?}");
            let distinct: std::collections::BTreeSet<_> = order.iter().collect();
            assert_eq!((distinct.len(), order.len()), (n_pods.into(), n_pods.into()));
            let next = order.get(position + 1).copied();
            assert_eq!(next, (n_pods > 1).then_some(1), "{order:?}");
        }
        assert_eq!(pod_chains(3, &OF_A_LANE).matches("-d 10.244.0.3 -j POD-1\n").count(), 1);
    }

    #[test]
    fn a_pod_may_send_only_where_it_is_a_sender() {
        let sends = "-A POD-1 -s 10.244.0.3 -j POLICY\n";
        let of_a_sender = Pods { n_senders: 1, protocols: &["tcp", "udp"], ..OF_A_LANE };
        assert!(!pod_chains(3, &OF_A_LANE).contains(sends));
        assert_eq!(pod_chains(3, &of_a_sender).matches(sends).count(), 1);
        assert_eq!(nft_set(2, &OF_A_LANE).matches("saddr").count(), 2);
        assert_eq!(nft_set(2, &of_a_sender).matches("saddr").count(), 8);
    }

    #[test]
    fn sets_hold_every_peer() {
        assert_eq!(ipset("x", 300).lines().count(), 301);
        assert_eq!(nft_sets(300).matches("2001:db8:3::").count(), 300);
        assert_eq!(linear(20, &OF_A_LANE).matches("-j ACCEPT").count(), 21);
    }
}
