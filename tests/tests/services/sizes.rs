//! Fragmented datagrams, and packets that exceed the path MTU.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpol_lab::node::nat::feed;
use netpol_lab::node::netns::{Counter, Netns};
use netpol_lab::node::topology::{GUEST, Wiring};
use netpol_lab::node::{Family, Host, Lab, Passing};
use netpol_lab::privilege::{Need, met};
use serde_json::{Value, json};

use crate::cluster::{apply_policy, can_run, expect, lab_wired, pod, sockets};

/// Datagram sizes, bytes: from two fragments to the maximum.
const SIZES: [usize; 4] = [1600, 8000, 20_000, 60_000];

/// Time limit for a datagram, ample on one machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// Attempts for a datagram of many fragments, because one lost fragment loses it.
const N_TRIES: usize = 10;

/// Isolates in both directions, except for these peers.
fn isolated(name: &str, peers: &Value) -> Value {
    json!({
        "podSelector": { "matchLabels": { "app": name } },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": peers }],
        "egress": [{ "to": peers }],
    })
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether a datagram of this size comes back whole.
fn comes_back(from: &Netns, to: SocketAddr, family: Family, size: usize) -> Result<bool> {
    from.inside(|| {
        let socket = UdpSocket::bind((any(family), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        let sent: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[0]).collect();
        for _ in 0..N_TRIES {
            socket.send(&sent)?;
            let mut answer = vec![0; size + 1];
            if let Ok(n) = socket.recv(&mut answer) {
                ensure!(answer.get(..n) == Some(sent.as_slice()), "{n} other bytes came back");
                return Ok(true);
            }
        }
        Ok(false)
    })
}

fn fragmented_datagrams(name: &str, wiring: Wiring) {
    if !can_run() {
        return;
    }
    let lab = lab_wired(name, wiring, &["client", "server", "visitor"], |_| Ok(()));
    let office: Vec<_> = lab
        .addresses(&Host::Office)
        .unwrap()
        .iter()
        .map(|address| {
            let len = if address.is_ipv4() { 32 } else { 128 };
            json!({ "ipBlock": { "cidr": format!("{address}/{len}") } })
        })
        .collect();
    let pods = json!([{ "podSelector": { "matchLabels": { "app": "server" } } }]);
    let peers = [pods.as_array().unwrap().clone(), office].concat();
    apply_policy(&lab, "client", &json!({}), &isolated("client", &peers.into()));
    let peers = json!([{ "podSelector": { "matchLabels": { "app": "client" } } }]);
    apply_policy(&lab, "server", &json!({}), &isolated("server", &peers));
    expect(&lab, &pod("visitor"), &[(Passing::No, sockets(&lab, &pod("server"), 80))]);
    expect(&lab, &pod("client"), &[(Passing::Yes, sockets(&lab, &pod("server"), 80))]);
    let check = || {
        for family in Family::BOTH {
            for size in SIZES {
                for (from, to) in [
                    (pod("client"), pod("server")),
                    (pod("client"), Host::Office),
                    (Host::Office, pod("client")),
                    (Host::Node, pod("server")),
                ] {
                    let addr = lab.socket_address(&to, family, 80).unwrap();
                    let netns = lab.netns(&from).unwrap();
                    let is_back = comes_back(netns, addr, family, size).unwrap();
                    assert!(is_back, "{size} bytes from {from} to {addr}");
                }
            }
        }
    };
    check();
    // The receiver reassembles no denied datagram.
    let server = lab.netns(&pod("server")).unwrap();
    let n_before = server.counter(Counter::UdpArrived).unwrap();
    for family in Family::BOTH {
        let addr = lab.socket_address(&pod("server"), family, 80).unwrap();
        lab.netns(&pod("visitor"))
            .unwrap()
            .inside(|| {
                let socket = UdpSocket::bind((any(family), 0))?;
                socket.send_to(&[7; 8000], addr)?;
                socket.send_to(&[7; 8], addr)?;
                Ok(())
            })
            .unwrap();
    }
    expect(&lab, &pod("visitor"), &[(Passing::No, sockets(&lab, &pod("server"), 80))]);
    assert_eq!(server.counter(Counter::UdpArrived).unwrap(), n_before);
    // With connection tracking the node reassembles datagrams and fragments them again.
    let track = "table inet track {\nchain forward {\n\
        type filter hook forward priority 0\nct state invalid drop\n}\n}\n";
    feed(lab.netns(&Host::Node).unwrap(), Command::new("nft").args(["-f", "-"]), track).unwrap();
    check();
}

#[test]
fn large_datagrams_reach_and_leave_isolated_pods_in_fragments() {
    fragmented_datagrams("sizes", Wiring::Bridge);
}

#[test]
fn large_datagrams_reach_and_leave_isolated_pods_in_fragments_over_routed_veths() {
    fragmented_datagrams("sizes-routed", Wiring::Routed);
}

/// Addresses behind the guest and a link with a small MTU.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 2)),
];

/// A host behind two routers, the guest and another, with a link of MTU 1300 between them.
fn far_host(lab: &Lab, name: &str) -> Result<Netns> {
    let [guest_v4, guest_v6] = GUEST;
    let far = Netns::create(&format!("netpol.{name}.far"))?;
    let router = Netns::create(&format!("netpol.{name}.router"))?;
    let guest = lab.netns(&Host::Guest)?;
    for netns in [guest, &router] {
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            netns.set(key, "1")?;
        }
    }
    guest.configure(&format!(
        "link add narrow mtu 1300 type veth peer name narrow mtu 1300 netns {}\n\
         address add 203.0.113.1/30 dev narrow\naddress add 2001:db8:113::1/64 dev narrow nodad\n\
         link set narrow up\n\
         route add 198.51.100.0/24 via 203.0.113.2\nroute add 2001:db8:51::/64 via 2001:db8:113::2\n",
        router.name(),
    ))?;
    router.configure(&format!(
        "address add 203.0.113.2/30 dev narrow\naddress add 2001:db8:113::2/64 dev narrow nodad\n\
         link set narrow up\n\
         route add default via 203.0.113.1\nroute add default via 2001:db8:113::1\n\
         link add far type veth peer name eth0 netns {}\n\
         address add 198.51.100.1/24 dev far\naddress add 2001:db8:51::1/64 dev far nodad\n\
         link set far up\n",
        far.name(),
    ))?;
    let [v4, v6] = FAR;
    far.configure(&format!(
        "address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 198.51.100.1\nroute add default via 2001:db8:51::1\n"
    ))?;
    lab.netns(&Host::Node)?.configure(&format!(
        "route add 198.51.100.0/24 via {guest_v4}\nroute add 2001:db8:51::/64 via {guest_v6}\n"
    ))?;
    Ok(far)
}

/// Echoes one connection.
fn echo_once(netns: &Netns, address: SocketAddr) -> Result<()> {
    let listener = netns.inside(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        std::io::copy(&mut stream.try_clone()?, &mut stream)?;
        Ok(())
    });
    Ok(())
}

/// Sends enough for full segments, and reads the echo.
fn migration(netns: &Netns, address: SocketAddr) -> Result<()> {
    const LEN_BYTES: usize = 200_000;
    let mut stream = netns.inside(|| Ok(TcpStream::connect(address)?))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut writer = stream.try_clone()?;
    let sender = thread::spawn(move || writer.write_all(&vec![7; LEN_BYTES]));
    let mut back = vec![0; LEN_BYTES];
    stream.read_exact(&mut back).with_context(|| format!("reading back from {address}"))?;
    sender.join().ok().context("the sender panicked")??;
    Ok(())
}

fn discovers_the_path(name: &str, wiring: Wiring) {
    if !can_run() || !met(&[Need::Program("nft")]) {
        return;
    }
    let lab = lab_wired(name, wiring, &["client"], |_| Ok(()));
    let far = far_host(&lab, name).unwrap();
    let blocks: Vec<_> = ["198.51.100.0/24", "2001:db8:51::/64"]
        .map(|cidr| json!({ "ipBlock": { "cidr": cidr } }))
        .into();
    apply_policy(&lab, "client", &json!({}), &isolated("client", &blocks.into()));
    expect(&lab, &pod("client"), &[(Passing::No, sockets(&lab, &Host::Office, 80))]);
    let client = lab.netns(&pod("client")).unwrap();
    for (port, [from, to]) in [(7001, [client, &far]), (7002, [&far, client])] {
        for address in FAR {
            let server = if port == 7001 {
                address
            } else {
                let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
                lab.socket_address(&pod("client"), family, 0).unwrap().ip()
            };
            let address = SocketAddr::new(server, port);
            echo_once(to, address).unwrap();
            migration(from, address).unwrap();
        }
    }
    // The router's ICMP error arrived, so the pod has learnt the path MTU.
    for address in FAR {
        let mut command = Command::new("ip");
        command.args(["route", "get", &address.to_string()]);
        let output = client.inside(|| Ok(command.output()?)).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("mtu 1300"), "{said}");
    }
}

#[test]
fn path_mtu_discovery_works_from_an_isolated_pod() {
    discovers_the_path("path", Wiring::Bridge);
}

#[test]
fn path_mtu_discovery_works_over_routed_veths() {
    discovers_the_path("path-routed", Wiring::Routed);
}
