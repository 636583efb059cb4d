//! Peers based on netfilter, as rule sets for `nft`, `iptables-restore`, and `ipset`.
//!
//! The rules are written here after the projects' known rule shapes; no code of theirs is used.

use std::fmt::Write as _;
use std::io::Write as _;
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

impl Rules {
    /// Installs the rules.
    ///
    /// # Errors
    /// A program is missing or refused them.
    pub fn install(self, netns: &Netns) -> Result<()> {
        // Network cards verify checksums, so netfilter need not.
        match self {
            Self::Conntrack => nft(netns, &conntrack_only())?,
            Self::NftSet { n_peers } => nft(netns, &nft_set(n_peers))?,
            Self::Ipset { n_peers } => {
                restore(netns, "ipset", &["restore"], &ipset("peers", n_peers))?;
                restore(netns, "iptables-restore", &[], &ipset_rules())?;
            }
            Self::Linear { n_peers } => {
                restore(netns, "iptables-restore", &[], &linear(n_peers))?;
            }
            Self::PodChains { n_pods, n_peers } => {
                restore(netns, "ipset", &["restore"], &pod_sets(n_pods, n_peers))?;
                restore(netns, "iptables-restore", &[], &pod_chains(n_pods))?;
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

fn nft_set(n_peers: u16) -> String {
    let mut text = nft_sets(n_peers);
    text += "table inet bench {\nchain forward {\ntype filter hook forward priority 0\n\
             ct state established,related accept\n";
    for family in [Family::V4, Family::V6] {
        let (ip, _, set) = words(family);
        let server = pod(0, family);
        _ = writeln!(text, "{ip} daddr {server} {ip} saddr @{set} udp dport {PORT} accept");
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

fn ipset_rules() -> String {
    let server = pod(0, Family::V4);
    format!(
        "*filter\n:FORWARD ACCEPT\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -d {server} -p udp --dport {PORT} -m set --match-set peers src -j ACCEPT\n\
         -A FORWARD -d {server} -j DROP\nCOMMIT\n"
    )
}

fn linear(n_peers: u16) -> String {
    let server = pod(0, Family::V4);
    let mut text = String::from("*filter\n:FORWARD ACCEPT\n");
    for number in 0..n_peers {
        // The sending peers come last.
        let other = std::net::Ipv4Addr::from_bits(0x0ae0_0000 + u32::from(number));
        _ = writeln!(text, "-A FORWARD -s {other} -d {server} -p udp --dport {PORT} -j ACCEPT");
    }
    // Peers have even addresses.
    let peers = "10.200.0.0/255.255.0.1";
    _ = writeln!(text, "-A FORWARD -s {peers} -d {server} -p udp --dport {PORT} -j ACCEPT");
    _ = writeln!(text, "-A FORWARD -d {server} -j DROP");
    text + "COMMIT\n"
}

fn pod_sets(n_pods: u16, n_peers: u16) -> String {
    let mut text = ipset("SRC", n_peers);
    text += "create DST hash:ip family inet\n";
    for number in 0..n_pods {
        _ = writeln!(text, "add DST {}", pod(number, Family::V4));
    }
    text
}

/// The pods in rule order, with the server in the middle.
fn pods_in_order(n_pods: u16) -> impl Iterator<Item = u16> {
    (1..n_pods.div_ceil(2)).chain([0]).chain(n_pods.div_ceil(2)..n_pods)
}

fn pod_chains(n_pods: u16) -> String {
    let mut text = String::from("*filter\n:FORWARD ACCEPT\n:ROUTER-FORWARD -\n:POLICY -\n");
    for number in 0..n_pods {
        _ = writeln!(text, ":POD-{number} -");
    }
    text += "-A FORWARD -j ROUTER-FORWARD\n";
    for number in pods_in_order(n_pods) {
        let addr = pod(number, Family::V4);
        _ = writeln!(text, "-A ROUTER-FORWARD -d {addr} -j POD-{number}");
        _ = writeln!(text, "-A ROUTER-FORWARD -s {addr} -j POD-{number}");
        _ = writeln!(text, "-A POD-{number} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        _ = writeln!(text, "-A POD-{number} -m conntrack --ctstate INVALID -j DROP");
        _ = writeln!(text, "-A POD-{number} -d {addr} -m addrtype --src-type LOCAL -j ACCEPT");
        _ = writeln!(text, "-A POD-{number} -d {addr} -j POLICY");
        _ = writeln!(text, "-A POD-{number} -m mark ! --mark {ALLOWED} -j DROP");
        _ = writeln!(text, "-A POD-{number} -j MARK --set-xmark 0x0/0x10000");
        _ = writeln!(text, "-A POD-{number} -j MARK --set-xmark {DONE}");
    }
    _ = writeln!(text, "-A ROUTER-FORWARD -m mark --mark {DONE} -j ACCEPT");
    _ = writeln!(
        text,
        "-A POLICY -p udp --dport {PORT} -m set --match-set SRC src -m set --match-set DST dst \
         -j MARK --set-xmark {ALLOWED}"
    );
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
        }
        assert_eq!(pod_chains(3).matches("-d 10.244.0.3 -j POD-1\n").count(), 1);
    }

    #[test]
    fn sets_hold_every_peer() {
        assert_eq!(ipset("x", 300).lines().count(), 301);
        assert_eq!(nft_sets(300).matches("2001:db8:3::").count(), 300);
        assert_eq!(linear(20).matches("-j ACCEPT").count(), 21);
    }
}
