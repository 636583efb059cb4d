//! Services as kube-proxy implements them: NAT rules on the node, with nftables or iptables.
//!
//! In: Services with their backends. Out: rules, and Service objects in the manifest directory. Backends are chosen round
//! robin, not at random as by kube-proxy, so that tests can predict the distribution.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::netns::Netns;
use super::{Family, Host, Lab, Labels};

/// Mark of packets to masquerade, as with kube-proxy's default `--iptables-masquerade-bit`.
const MASQUERADE: u32 = 0x4000;

/// The rule language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `nftables`: verdict maps from address and port to the chain of a Service.
    Nftables,
    /// `iptables`: `KUBE-SERVICES`, `KUBE-SVC-...`, `KUBE-SEP-...`.
    Iptables,
}

impl Shape {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];
}

/// Which connections to Services are masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Those from outside, and those of a pod to itself: the default.
    Outsiders,
    /// All (`--masquerade-all`): needed with a bridge without `br_netfilter`, because answers would bypass the rules.
    All,
}

/// Whether bridged packets traverse the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridge {
    /// Yes, with `br_netfilter`.
    Filtered,
    /// No.
    Plain,
}

/// One port of a Service, TCP and UDP, in both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name; it is in the namespace `default`.
    pub name: String,
    /// Its cluster IP in each family.
    pub addresses: Vec<IpAddr>,
    /// The port.
    pub port: u16,
    /// External addresses (`spec.externalIPs`), possibly none.
    pub external: Vec<IpAddr>,
    /// Node port, if it has one.
    pub node_port: Option<u16>,
    /// The backends.
    pub backends: Vec<SocketAddr>,
}

impl Service {
    /// A Service at `10.96.0.N` and `fd00:10:96::N`, port 80.
    pub fn new(name: &str, n: u8, backends: Vec<SocketAddr>) -> Self {
        let addresses =
            vec![[10, 96, 0, n].into(), [0xfd00, 0x10, 0x96, 0, 0, 0, 0, n.into()].into()];
        let (external, node_port) = (Vec::new(), None);
        Self { name: name.to_owned(), addresses, port: 80, external, node_port, backends }
    }

    /// Its cluster IP and port, in one family.
    ///
    /// # Errors
    /// It has no address of the family.
    pub fn socket_address(&self, family: Family) -> Result<SocketAddr> {
        let mut addresses = self.addresses.iter();
        let address = addresses.find(|address| address.is_ipv4() == (family == Family::V4));
        let address =
            address.with_context(|| format!("{} has no {family:?} address", self.name))?;
        Ok(SocketAddr::new(*address, self.port))
    }

    /// The Service, with a selector of its pods. If its backends are no pods with the same labels, an `EndpointSlice` of each
    /// family lists them.
    fn objects(&self, selector: Option<&Labels>) -> Vec<Value> {
        let mut object = self.object();
        let Some(selector) = selector else {
            let slices = Family::BOTH.into_iter().map(|family| self.slice(family));
            return [object].into_iter().chain(slices).collect();
        };
        if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("selector".to_owned(), json!(selector));
        }
        vec![object]
    }

    fn slice(&self, family: Family) -> Value {
        let endpoints: Vec<_> = self
            .of(family)
            .map(|backend| json!({ "addresses": [backend.ip()], "conditions": { "ready": true } }))
            .collect();
        let number = self.backends.first().map_or(self.port, SocketAddr::port);
        let ports = ["TCP", "UDP"].map(|protocol| {
            json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": number })
        });
        let kind = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "name": format!("{}-{}", self.name, kind.to_lowercase()),
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "addressType": kind,
            "endpoints": endpoints,
            "ports": ports,
        })
    }

    fn object(&self) -> Value {
        let ports: Vec<_> = ["TCP", "UDP"]
            .map(|protocol| {
                json!({
                    "name": protocol.to_lowercase(),
                    "protocol": protocol,
                    "port": self.port,
                    "nodePort": self.node_port,
                    "targetPort": self.backends.first().map(SocketAddr::port),
                })
            })
            .into();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "namespace": "default", "name": self.name },
            "spec": {
                "type": if self.node_port.is_some() { "NodePort" } else { "ClusterIP" },
                "clusterIP": self.addresses.first(),
                "clusterIPs": self.addresses,
                "externalIPs": self.external,
                "ports": ports,
            },
        })
    }

    /// Its external addresses, in one family.
    fn external_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let external = self.external.iter().copied();
        external.filter(move |address| address.is_ipv4() == (family == Family::V4))
    }

    fn of(&self, family: Family) -> impl Iterator<Item = SocketAddr> {
        let backends = self.backends.iter().copied();
        backends.filter(move |backend| backend.is_ipv4() == (family == Family::V4))
    }
}

impl Lab {
    /// Installs the rules and objects of these Services and removes all others.
    ///
    /// # Errors
    /// `nft` or `iptables-restore` failed, or a manifest cannot be written.
    pub fn apply_services(
        &self,
        shape: Shape,
        masquerade: Masquerade,
        services: &[Service],
    ) -> Result<()> {
        for service in services {
            let selector = self.labels_of(&service.backends);
            let objects = service.objects(selector);
            for (object, file) in objects.iter().zip([
                manifest(service),
                slices(service, "v4"),
                slices(service, "v6"),
            ]) {
                self.manifests().write_object(&file, object)?;
            }
        }
        let node = self.netns(&Host::Node)?;
        match shape {
            Shape::Nftables => {
                let mut rules = String::new();
                for family in Family::BOTH {
                    nft_rules(&mut rules, family, masquerade, services)?;
                }
                feed(node, Command::new("nft").args(["-f", "-"]), &rules)
            }
            Shape::Iptables => Family::BOTH.into_iter().try_for_each(|family| {
                let program = match family {
                    Family::V4 => "iptables-restore",
                    Family::V6 => "ip6tables-restore",
                };
                feed(
                    node,
                    &mut Command::new(program),
                    &iptables_rules(family, masquerade, services)?,
                )
            }),
        }
    }

    /// Sets whether bridged packets traverse the rules (`br_netfilter`), which Kubernetes requires with iptables.
    ///
    /// # Errors
    /// The kernel module is missing.
    pub fn set_bridge(&self, bridge: Bridge) -> Result<()> {
        let value = match bridge {
            Bridge::Filtered => "1",
            Bridge::Plain => "0",
        };
        ["iptables", "ip6tables"].into_iter().try_for_each(|program| {
            self.netns(&Host::Node)?.set(&format!("net/bridge/bridge-nf-call-{program}"), value)
        })
    }
}

/// The files of the slices of a Service.
fn slices(service: &Service, family: &str) -> String {
    format!("slice-{family}-{}.yaml", service.name)
}

/// The file of a Service's manifest.
pub fn manifest(service: &Service) -> String {
    format!("service-{}.yaml", service.name)
}

/// Runs a program in a network namespace with this input.
///
/// # Errors
/// It cannot be run or fails: the message contains its output.
pub fn feed(netns: &Netns, command: &mut Command, input: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = netns.spawn(command)?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} said {}, to\n{input}", said.trim());
    Ok(())
}

/// nftables' name of a family, and its pod subnet.
fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "10.244.0.0/16"),
        Family::V6 => ("ip6", "fd00:10:244::/48"),
    }
}

fn nft_rules(
    rules: &mut String,
    family: Family,
    masquerade: Masquerade,
    services: &[Service],
) -> Result<()> {
    let (ip, pods) = words(family);
    let outsider = match masquerade {
        Masquerade::Outsiders => format!("{ip} saddr != {pods}"),
        Masquerade::All => String::new(),
    };
    // Added first, so that the delete does not fail.
    writeln!(
        rules,
        "table {ip} kube-proxy\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{"
    )?;
    writeln!(rules, "chain mark-for-masquerade {{ meta mark set meta mark or {MASQUERADE:#x}; }}")?;
    let (mut by_address, mut by_node_port) = (Vec::new(), Vec::new());
    for service in services {
        let Service { name, port, node_port, addresses: _, external: _, backends: _ } = service;
        let vip = service.socket_address(family)?.ip();
        for protocol in ["tcp", "udp"] {
            let chain = format!("service-{name}-{protocol}");
            let backends: Vec<_> = service.of(family).collect();
            let mut choices = Vec::new();
            for (index, backend) in backends.iter().enumerate() {
                let endpoint = format!("endpoint-{name}-{protocol}-{index}");
                writeln!(rules, "chain {endpoint} {{")?;
                writeln!(rules, "{ip} saddr {} jump mark-for-masquerade", backend.ip())?;
                writeln!(rules, "meta l4proto {protocol} dnat to {backend}\n}}")?;
                choices.push(format!("{index} : goto {endpoint}"));
            }
            writeln!(rules, "chain {chain} {{")?;
            writeln!(
                rules,
                "{ip} daddr {vip} {protocol} dport {port} {outsider} jump mark-for-masquerade"
            )?;
            if !choices.is_empty() {
                let n = choices.len();
                writeln!(rules, "numgen inc mod {n} vmap {{ {} }}", choices.join(", "))?;
            }
            writeln!(rules, "}}")?;
            by_address.push(format!("{vip} . {protocol} . {port} : goto {chain}"));
            let external = format!("external-{name}-{protocol}");
            writeln!(rules, "chain {external} {{ jump mark-for-masquerade; goto {chain}; }}")?;
            if let Some(node_port) = node_port {
                by_node_port.push(format!("{protocol} . {node_port} : goto {external}"));
            }
            for address in service.external_of(family) {
                by_address.push(format!("{address} . {protocol} . {port} : goto {external}"));
            }
        }
    }
    writeln!(
        rules,
        "map service-ips {{ type {}_addr . inet_proto . inet_service : verdict",
        nft_type(family)
    )?;
    elements(rules, &by_address)?;
    writeln!(rules, "map service-nodeports {{ type inet_proto . inet_service : verdict")?;
    elements(rules, &by_node_port)?;
    writeln!(rules, "chain services {{")?;
    writeln!(rules, "{ip} daddr . meta l4proto . th dport vmap @service-ips")?;
    writeln!(rules, "fib daddr type local meta l4proto . th dport vmap @service-nodeports\n}}")?;
    for (chain, hook, priority) in
        [("nat-prerouting", "prerouting", "dstnat"), ("nat-output", "output", "-100")]
    {
        writeln!(
            rules,
            "chain {chain} {{ type nat hook {hook} priority {priority}; jump services; }}"
        )?;
    }
    writeln!(rules, "chain nat-postrouting {{ type nat hook postrouting priority srcnat")?;
    writeln!(rules, "meta mark & {MASQUERADE:#x} == 0 return")?;
    writeln!(
        rules,
        "meta mark set meta mark xor {MASQUERADE:#x}\nmasquerade fully-random\n}}\n}}"
    )?;
    Ok(())
}

fn nft_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn elements(rules: &mut String, elements: &[String]) -> Result<()> {
    if !elements.is_empty() {
        writeln!(rules, "elements = {{ {} }}", elements.join(", "))?;
    }
    writeln!(rules, "}}")?;
    Ok(())
}

fn iptables_rules(family: Family, masquerade: Masquerade, services: &[Service]) -> Result<String> {
    let (_, pods) = words(family);
    let outsider = match masquerade {
        Masquerade::Outsiders => format!("! -s {pods}"),
        Masquerade::All => String::new(),
    };
    let (mut chains, mut dispatch, mut rules) = (String::new(), String::new(), String::new());
    for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"] {
        writeln!(chains, ":{chain} - [0:0]")?;
    }
    for service in services {
        let Service { name, port, node_port, addresses: _, external: _, backends: _ } = service;
        let vip = service.socket_address(family)?.ip();
        for protocol in ["tcp", "udp"] {
            let chain = format!("KUBE-SVC-{name}-{protocol}");
            writeln!(chains, ":{chain} - [0:0]")?;
            let is_it = format!("-d {vip} -p {protocol} -m {protocol} --dport {port}");
            writeln!(dispatch, "-A KUBE-SERVICES {is_it} -j {chain}")?;
            writeln!(rules, "-A {chain} {outsider} {is_it} -j KUBE-MARK-MASQ")?;
            let external = format!("KUBE-EXT-{name}-{protocol}");
            writeln!(chains, ":{external} - [0:0]")?;
            writeln!(rules, "-A {external} -j KUBE-MARK-MASQ\n-A {external} -j {chain}")?;
            if let Some(node_port) = node_port {
                let is_it = format!("-p {protocol} -m {protocol} --dport {node_port}");
                writeln!(dispatch, "-A KUBE-NODEPORTS {is_it} -j {external}")?;
            }
            for address in service.external_of(family) {
                let is_it = format!("-d {address} -p {protocol} -m {protocol} --dport {port}");
                writeln!(dispatch, "-A KUBE-SERVICES {is_it} -j {external}")?;
            }
            let backends: Vec<_> = service.of(family).collect();
            for (index, backend) in backends.iter().enumerate() {
                let endpoint = format!("KUBE-SEP-{name}-{protocol}-{index}");
                writeln!(chains, ":{endpoint} - [0:0]")?;
                let n_left = backends.len() - index;
                let turn = format!("-m statistic --mode nth --every {n_left} --packet 0");
                let turn = if n_left > 1 { turn } else { String::new() };
                writeln!(rules, "-A {chain} {turn} -j {endpoint}")?;
                writeln!(rules, "-A {endpoint} -s {} -j KUBE-MARK-MASQ", backend.ip())?;
                writeln!(
                    rules,
                    "-A {endpoint} -p {protocol} -m {protocol} -j DNAT --to-destination {backend}"
                )?;
            }
        }
    }
    // Last, as in kube-proxy's rules.
    writeln!(dispatch, "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")?;
    Ok(format!(
        "*nat\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE:#x}\n\
         -A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE:#x}/{MASQUERADE:#x} -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE:#x}\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {dispatch}{rules}COMMIT\n"
    ))
}
