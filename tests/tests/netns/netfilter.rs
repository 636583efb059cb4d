//! netfilter rules of others, written by the usual programs and read as the agent reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use netpol_common::ids::IfIndex;
use netpol_datapath::netfilter::{
    Depth, Engine, Judgement, Network, PodTraffic, Reader, RuleSet, judge,
};
use netpol_lab::node::netns::{self, Netns};
use netpol_lab::privilege::{Need, met};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// A network namespace without rules; `None` if the machine lacks something.
struct Empty(Netns);

impl Empty {
    fn new(name: &str) -> Result<Option<Self>> {
        let needs = ["nft", "iptables-nft", "iptables-legacy"].map(Need::Program);
        if !met(&[&[Need::Root], needs.as_slice()].concat()) {
            return Ok(None);
        }
        let name = format!("netpol-nf-{name}-{}", std::process::id());
        Netns::create(&name).map(|netns| Some(Self(netns)))
    }

    /// Runs a program with this input.
    fn run(&self, command: &str, input: &str) -> Result<()> {
        let mut words = command.split_whitespace();
        let mut program = Command::new(words.next().context("no program")?);
        program.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.0.spawn(&mut program)?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command}: {said}\n{input}");
        Ok(())
    }

    fn read(&self) -> Result<[RuleSet; 2]> {
        self.0.inside(|| {
            let mut reader = Reader::default();
            Ok([reader.read_nf_tables(Depth::Rules)?, reader.read_legacy(Depth::Rules)?])
        })
    }

    fn judge(&self) -> Result<Judgement> {
        let mut sum = Judgement::default();
        for rules in self.read()? {
            let Judgement { n_altering, altering, n_counting, counting } =
                judge(&rules, &traffic());
            sum.n_altering += n_altering;
            sum.altering.extend(altering);
            sum.n_counting += n_counting;
            sum.counting.extend(counting);
        }
        Ok(sum)
    }

    fn expect(&self, altering: &[&str], counting: &[&str]) -> Result<()> {
        let found = self.judge()?;
        ensure!(found.altering == altering && found.counting == counting, "{found:#?}");
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.run("nft -f -", "flush ruleset\n")?;
        for program in ["iptables-legacy-restore", "ip6tables-legacy-restore"] {
            for table in ["filter", "nat", "mangle", "raw"] {
                self.run(program, &format!("*{table}\nCOMMIT\n"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        drop(netns::delete(self.0.name()));
    }
}

/// Pods on `cni0`, of both families.
fn traffic() -> PodTraffic {
    let networks = ["10.244.1.7", "fd00:10:244:1::7", "fe80::1"];
    let of = |address: &str| address.parse::<IpAddr>().ok().map(Network::around);
    PodTraffic {
        bridges: BTreeMap::from([(IfIndex(5), "cni0".to_owned())]),
        ports: BTreeMap::from([(IfIndex(7), "veth12ab".to_owned())]),
        networks: networks.into_iter().filter_map(of).collect(),
        is_routed: false,
    }
}

/// Rules that packets between pods may meet, one at a time, and how they are named.
const FOREIGN: [(&str, &str); 19] = [
    ("forward { type filter hook forward priority 0; policy drop; }", "policy drop"),
    ("forward { type filter hook forward priority 0; drop; }", "drop"),
    (
        "forward { type filter hook forward priority 0; ip saddr 10.244.0.0/16 drop; }",
        "ip saddr 10.244.0.0/16 drop",
    ),
    (
        "forward { type filter hook forward priority 0; ip saddr 10.244.1.128/25 drop; }",
        "ip saddr 10.244.1.128/25 drop",
    ),
    (
        "forward { type filter hook forward priority 0; ip6 daddr fd00::/8 drop; }",
        "ip6 daddr fd00::/8 drop",
    ),
    (
        "forward { type filter hook forward priority 0; ip saddr != 10.244.1.7 drop; }",
        "ip saddr != 10.244.1.7/32 drop",
    ),
    (
        "forward { type filter hook forward priority 0; iifname \"cni*\" tcp dport 80 reject; }",
        "iifname cni* tcp dport 80 reject",
    ),
    (
        "forward { type filter hook forward priority 0; iifname != \"eth0\" log; }",
        "iifname != eth0 log",
    ),
    (
        "forward { type filter hook forward priority 0; iif 5 ct state invalid counter drop; }",
        "iif 5 ct state drop",
    ),
    ("prerouting { type filter hook prerouting priority mangle; meta mark set 7; }", "meta"),
    (
        "prerouting { type nat hook prerouting priority dstnat; tcp dport 80 redirect to :8080; }",
        "tcp dport 80 redir",
    ),
    (
        "postrouting { type nat hook postrouting priority srcnat; ip saddr 10.0.0.0/8 masquerade; }",
        "ip saddr 10.0.0.0/8 masq",
    ),
    (
        "forward { type filter hook forward priority 0; ip saddr { 1.1.1.1, 2.2.2.2 } drop; }",
        "{...} drop",
    ),
    (
        "forward { type filter hook forward priority 0; tcp dport vmap { 22 : drop }; }",
        "tcp vmap {...}",
    ),
    ("forward { type filter hook forward priority 0; limit rate 5/second drop; }", "limit drop"),
    ("raw { type filter hook prerouting priority raw; notrack; }", "notrack"),
    (
        "forward { type filter hook forward priority 0; tcp option maxseg size set rt mtu; }",
        "exthdr",
    ),
    (
        "other { iifname \"docker0\" drop; iifname \"cni0\" drop; }
         chain forward { type filter hook forward priority 0; jump other; }",
        "iifname cni0 drop",
    ),
    (
        "forward { type filter hook forward priority 0; ct state established accept; ip protocol 6 drop; }",
        "tcp drop",
    ),
];

/// Rules that do nothing to packets between pods.
const HARMLESS: [&str; 13] = [
    "forward { type filter hook forward priority 0; policy accept; }",
    "forward { type filter hook forward priority 0; counter accept; counter return; }",
    "input { type filter hook input priority 0; policy drop; drop; }",
    "output { type filter hook output priority 0; drop; }",
    "nobody { drop; }",
    "forward { type filter hook forward priority 0; iifname \"docker0\" drop; }",
    "forward { type filter hook forward priority 0; iifname != \"cni0\" drop; }",
    "forward { type filter hook forward priority 0; oifname \"eth*\" drop; }",
    "forward { type filter hook forward priority 0; ip daddr 172.17.0.0/16 drop; }",
    "forward { type filter hook forward priority 0; ip saddr != 10.244.0.0/16 drop; }",
    "forward { type filter hook forward priority 0; ip6 saddr 2001:db8::/32 drop; }",
    "forward { type filter hook forward priority 0; fib daddr type local drop; }",
    "empty { }; chain forward { type filter hook forward priority 0; jump empty; }",
];

#[test]
fn rules_of_nft_that_packets_between_pods_may_meet_are_named_and_no_others() -> Result<()> {
    let Some(netns) = Empty::new("nft")? else { return Ok(()) };
    let table = |rules: &str| format!("flush ruleset\ntable inet t {{ chain {rules}; }}\n");
    for (rules, expected) in FOREIGN {
        netns.run("nft -f -", &table(rules))?;
        let found = netns.judge()?;
        let named = found.altering.iter().any(|text| text.ends_with(&format!(": {expected}")));
        ensure!(found.n_altering == 1 && named, "{rules}: {found:#?}");
    }
    for rules in HARMLESS {
        netns.run("nft -f -", &table(rules))?;
        ensure!(netns.judge()? == Judgement::default(), "{rules}: {:#?}", netns.judge()?);
    }
    let table = "table ip6 t { chain forward { type filter hook forward priority 0; counter; }; }";
    netns.run("nft -f -", &format!("flush ruleset\n{table}\n"))?;
    netns.expect(&[], &["table ip6 t, chain forward: counter"])?;
    let dormant =
        "table inet t { flags dormant; chain c { type filter hook forward priority 0; drop; }; }";
    netns.run("nft -f -", &format!("flush ruleset\n{dormant}\n"))?;
    netns.expect(&[], &[])
}

#[test]
fn rules_on_bridges_and_single_devices_see_the_interfaces_of_pods() -> Result<()> {
    let Some(netns) = Empty::new("bridge")? else { return Ok(()) };
    netns.0.configure(
        "link add veth12ab type veth peer name p\nlink add eth0 type veth peer name q\n",
    )?;
    let bridge = "table bridge t { chain c { type filter hook forward priority 0;
        iifname veth12ab drop; iifname cni0 drop; ether type arp drop; ether type ip log; }; }";
    netns.run("nft -f -", bridge)?;
    netns.expect(
        &["table bridge t, chain c: iifname veth12ab drop", "table bridge t, chain c: log"],
        &[],
    )?;
    let devices = "flush ruleset
        table netdev t { chain a { type filter hook ingress device veth12ab priority 0; drop; };
        chain b { type filter hook ingress device eth0 priority 0; drop; }; }
        table arp t { chain c { type filter hook input priority 0; drop; }; }\n";
    netns.run("nft -f -", devices)?;
    netns.expect(&["table netdev t, chain a: drop"], &[])
}

/// The rules of both kinds of iptables, and what is found.
const IPTABLES: &str = "*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:EMPTY - [0:0]
:mine - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -j EMPTY
-A FORWARD -s 10.244.1.0/24
-A FORWARD -m physdev --physdev-is-bridged -j mine
-A FORWARD -m addrtype --dst-type BROADCAST -j DROP
-A FORWARD -m addrtype ! --dst-type LOCAL -j LOG
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-USER -j RETURN
-A mine -i cni+ -d 10.244.1.9/32 -j DROP
-A mine -i cali+ -j DROP
COMMIT
";

#[test]
fn rules_of_both_kinds_of_iptables_are_named() -> Result<()> {
    let Some(netns) = Empty::new("iptables")? else { return Ok(()) };
    for (program, kind) in
        [("iptables-nft-restore", ""), ("iptables-legacy-restore", " (iptables-legacy)")]
    {
        netns.run(program, IPTABLES)?;
        let found = netns.judge()?;
        ensure!(found.n_altering == 3 && found.n_counting == 1, "{kind}: {found:#?}");
        for text in ["chain FORWARD: -m addrtype -j LOG", "chain mine: ", "-j TCPMSS"] {
            ensure!(
                found.altering.iter().any(|found| found.contains(text) && found.contains(kind)),
                "{text}: {found:#?}"
            );
        }
        ensure!(found.counting.iter().all(|text| text.contains("10.244.1.0/24")), "{found:#?}");
        netns.clear()?;
    }
    netns.run("ip6tables-legacy -A FORWARD -s fd00:10:244:1::/64 ! -i eth+ -j REJECT", "")?;
    netns.expect(
        &["table ip6 filter (iptables-legacy), chain FORWARD: -s fd00:10:244:1::/64 ! -i eth+ -j REJECT"],
        &[],
    )?;
    netns.clear()?;
    netns.run("ip6tables-nft -P FORWARD DROP", "")?;
    netns.run("ip6tables-legacy -P FORWARD DROP", "")?;
    netns.expect(
        &[
            "table ip6 filter, chain FORWARD: policy drop",
            "table ip6 filter (iptables-legacy), chain FORWARD: policy drop",
        ],
        &[],
    )
}

/// kube-proxy, Flannel and the plugin portmap, with this many Services.
fn known(n_services: usize) -> String {
    let mut nat = "*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:FLANNEL-POSTRTG - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-5c1a4c2d - [0:0]
"
    .to_owned();
    let mut rules =
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.244.1.7/32 -m comment --comment \"name: x\" -j CNI-5c1a4c2d
-A POSTROUTING -j CNI-HOSTPORT-MASQ
-A POSTROUTING -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
"
        .to_owned();
    for n in 0..n_services {
        let (a, b) = (n / 250, n % 250 + 1);
        let _always = writeln!(nat, ":KUBE-SVC-{n:016} - [0:0]\n:KUBE-SEP-{n:016} - [0:0]");
        let _always = writeln!(
            rules,
            "-A KUBE-SERVICES -d 10.96.{a}.{b}/32 -p tcp -m comment --comment \"x/s{n}\" -m tcp --dport 80 -j KUBE-SVC-{n:016}
-A KUBE-SVC-{n:016} ! -s 10.244.0.0/16 -d 10.96.{a}.{b}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-{n:016} -m comment --comment \"x/s{n} -> 10.244.2.9:80\" -j KUBE-SEP-{n:016}
-A KUBE-SEP-{n:016} -s 10.244.2.9/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-{n:016} -p tcp -m tcp -j DNAT --to-destination 10.244.2.9:80"
        );
    }
    format!(
        "{nat}{rules}COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT
COMMIT
"
    )
}

#[test]
fn rules_of_kube_proxy_flannel_the_plugins_and_netpol_are_known() -> Result<()> {
    let Some(netns) = Empty::new("known")? else { return Ok(()) };
    for program in ["iptables-nft-restore", "iptables-legacy-restore"] {
        netns.run(program, &known(3))?;
        netns.expect(&[], &[])?;
        netns.clear()?;
    }
    for table in [
        "ip kube-proxy",
        "ip6 kube-proxy",
        "ip flannel-ipv4",
        "ip6 flannel-ipv6",
        "inet cni_hostport",
        "inet netpol",
    ] {
        let rules = format!(
            "table {table} {{ chain c {{ type filter hook forward priority 0; policy drop; drop; }}; }}\n"
        );
        netns.run("nft -f -", &rules)?;
    }
    netns.expect(&[], &[])?;
    let [nf_tables, _legacy] = netns.read()?;
    ensure!(nf_tables == RuleSet::default(), "{nf_tables:#?}");
    Ok(())
}

#[test]
fn chains_and_tables_of_other_engines_are_found_by_name() -> Result<()> {
    use Engine::{Antrea, Calico, Cilium, KubeNetworkPolicies, KubeRouter, Weave};
    let Some(netns) = Empty::new("engines")? else { return Ok(()) };
    for chain in [
        "KUBE-ROUTER-FORWARD",
        "KUBE-NWPLCY-DEFAULT",
        "KUBE-POD-FW-7LFXA",
        "cali-FORWARD",
        "CILIUM_FORWARD",
        "WEAVE-NPC",
        "WEAVE-NPC-EGRESS",
        "ANTREA-FORWARD",
    ] {
        netns.run(&format!("iptables-nft -N {chain}"), "")?;
        netns.run(&format!("ip6tables-legacy -N {chain}"), "")?;
    }
    netns.run("nft add table ip calico", "")?;
    netns.run("nft add table inet kube-network-policies", "")?;
    let [nf_tables, legacy] = netns.read()?;
    let n = |rules: &RuleSet| -> Vec<(Engine, usize)> {
        rules.engines().iter().map(|(engine, found)| (*engine, found.n)).collect()
    };
    let in_legacy = [(KubeRouter, 3), (Calico, 1), (Cilium, 1), (Weave, 2), (Antrea, 1)];
    ensure!(n(&legacy) == in_legacy, "{legacy:#?}");
    let in_nft = [
        (KubeRouter, 3),
        (Calico, 2),
        (Cilium, 1),
        (Weave, 2),
        (Antrea, 1),
        (KubeNetworkPolicies, 1),
    ];
    ensure!(n(&nf_tables) == in_nft, "{nf_tables:#?}");
    let named = nf_tables.engines().get(&Calico).map(|found| found.names.clone());
    let expected = ["table ip calico", "table ip filter, chain cali-FORWARD"].map(str::to_owned);
    ensure!(named == Some(BTreeSet::from(expected)), "{named:?}");
    netns.expect(&[], &[])?;
    netns.run("iptables-nft -A FORWARD -j KUBE-ROUTER-FORWARD", "")?;
    netns.expect(&["table ip filter, chain FORWARD: jump KUBE-ROUTER-FORWARD"], &[])
}

#[test]
fn without_the_capability_the_rules_are_not_known() -> Result<()> {
    let Some(netns) = Empty::new("capability")? else { return Ok(()) };
    netns.run("iptables-legacy -A FORWARD -j DROP", "")?;
    netns.0.inside(|| {
        let mut sets = capabilities(None)?;
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets)?;
        let mut reader = Reader::default();
        let said = reader.generation().map_err(|error| format!("{:#}", anyhow::Error::new(error)));
        let expected = "cannot read the rules of nf_tables: Operation not permitted (os error 1)";
        ensure!(said == Err(expected.to_owned()), "{said:?}");
        let said = reader.read_legacy(Depth::Rules).map_err(|error| error.to_string());
        let expected = "cannot read the rules of the older iptables, table filter";
        ensure!(said == Err(expected.to_owned()), "{said:?}");
        Ok(())
    })
}
