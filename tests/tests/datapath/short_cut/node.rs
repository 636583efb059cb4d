//! A node of real devices: two pods on a bridge, and the device that leads to the other node.
//!
//! No address is on the pods' ends and on the other node's, so nothing but the test sends packets there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use netpol_common::identities::N_FAMILIES;
use netpol_common::ids::IfIndex;
use netpol_common::keys::{CounterKey, Overlay, PrefixKey};
use netpol_common::mac::Mac;
use netpol_common::maps::FLOWS;
use netpol_datapath::{Config, Datapath, Role};
use netpol_lab::node::netns::{self, Netns};
use netpol_policy::dataplane::Counter;
use netpol_policy::dataplane::port::Maps as _;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::events::{ENDS, GATEWAY, OVERLAY};
use crate::cluster_model::{v4, v6};

/// MAC address of the other node's end.
const FAR: &str = "02:00:00:00:00:0b";
/// Buckets of the table of flows, for some twenty flows.
const N_BUCKETS: u32 = 256;
/// Longest frame that is read, in bytes.
const FRAME_LEN_BYTES: usize = 2048;

/// The addresses of the pods of the other node.
pub(super) fn far_prefixes() -> BTreeSet<PrefixKey> {
    let far = [IpAddr::from(v4(4)), v6(4).into()];
    far.map(|addr| PrefixKey { prefix_len_bits: 126, addr: addr.into() }).into()
}

/// The node with its programs. Removed on drop.
pub(super) struct Node {
    pub(super) datapath: Datapath,
    /// The ends of the wires at the two pods and at the other node.
    wires: [Wire; 3],
    _left: Left,
}

/// The namespaces and the pins, which would outlive the process.
struct Left {
    netns: Vec<Netns>,
    pins: PathBuf,
}

impl Node {
    pub(super) fn new(name: &str) -> Self {
        let name = |part: &str| format!("npsc-{}-{name}-{part}", std::process::id());
        let pins = PathBuf::from(format!("/sys/fs/bpf/{}", name("pins")));
        let mut left = Left { netns: Vec::new(), pins: pins.clone() };
        let netns = ["node", "client", "server", "far"].map(|part| {
            let netns = Netns::create(&name(part)).unwrap();
            left.netns.push(netns.clone());
            netns
        });
        let [node, client, server, far] = &netns;
        for netns in [client, server, far] {
            netns.set("net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        }
        configure(node, [client, server, far]);
        // A table of the usual size takes long to read.
        let capacities = BTreeMap::from([(FLOWS, N_BUCKETS)]);
        let config = Config { pin_root: Some(pins), capacities, ..Config::default() };
        let datapath = node.inside(|| {
            let mut datapath = Datapath::load(&config)?;
            for (pod, _) in ENDS {
                datapath.attach(pod, Role::Pod)?;
            }
            datapath.attach(OVERLAY.0, Role::Uplink)?;
            let overlay = Overlay::new(OVERLAY.0, GATEWAY, OVERLAY.1);
            let overlays = (0..N_FAMILIES).map(|family| (family, overlay)).collect();
            datapath.set_overlay(&overlays, &far_prefixes())?;
            Ok(datapath)
        });
        let datapath = datapath.unwrap();
        let wires = [client, server, far].map(|netns| Wire::of(netns, "eth0"));
        Self { datapath, wires, _left: left }
    }

    /// Sends a frame from the pod or the other node behind this interface, and returns what arrives at the three ends.
    pub(super) fn send(&self, from: IfIndex, frame: &[u8], marks: &Marks) -> [Vec<Vec<u8>>; 3] {
        let [client, server, far] = &self.wires;
        let wire = match from {
            _ if from == ENDS[0].0 => client,
            _ if from == ENDS[1].0 => server,
            _ => far,
        };
        wire.send(frame);
        marks.pass();
        [client, server, far].map(Wire::received)
    }

    /// Dropped and audited packets of the pods since the programs were attached.
    pub(super) fn counters(&self) -> BTreeMap<CounterKey, Counter> {
        self.datapath.counters().unwrap()
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        for netns in &self.netns {
            netns::delete(netns.name()).ok();
        }
        fs::remove_dir_all(&self.pins).ok();
    }
}

/// Makes the devices, with fixed neighbours, so that nobody asks for them.
fn configure(node: &Netns, [client, server, far]: [&Netns; 3]) {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
    ] {
        node.set(key, value).unwrap();
    }
    // First, because other devices could get its index.
    let (overlay, mac) = (OVERLAY.0, text(OVERLAY.1));
    let mut commands = format!(
        "link add far0 index {overlay} address {mac} type veth peer name eth0 address {FAR} netns {}\n\
         link set far0 addrgenmode none up\n\
         link add cni0 address {} type bridge mcast_snooping 0\n\
         link set cni0 addrgenmode none up\n\
         addr add 10.0.0.254/32 dev cni0\naddr add 10.9.0.1/24 dev far0\naddr add fd00:9::1/64 dev far0 nodad\n\
         route add 10.0.0.0/30 dev cni0\nroute add fd00::/126 dev cni0\n\
         route add 10.0.0.4/30 via 10.9.0.2 dev far0\nroute add fd00::4/126 via fd00:9::2 dev far0\n\
         neigh add 10.9.0.2 lladdr {FAR} dev far0 nud permanent\n\
         neigh add fd00:9::2 lladdr {FAR} dev far0 nud permanent\n",
        far.name(),
        text(GATEWAY),
    );
    for ((ifindex, mac), netns) in ENDS.into_iter().zip([client, server]) {
        let own = text(Mac::new([2, 0, 0, 0, 1, mac.octets()[5]]));
        let mac = text(mac);
        write!(
            commands,
            "link add pod{ifindex} index {ifindex} address {own} type veth peer name eth0 address {mac} netns {}\n\
             link set pod{ifindex} master cni0 addrgenmode none up\n",
            netns.name(),
        )
        .unwrap();
    }
    for (last, (_, mac)) in (1..).zip(ENDS) {
        let mac = text(mac);
        writeln!(commands, "neigh add {} lladdr {mac} dev cni0 nud permanent", v4(last)).unwrap();
        writeln!(commands, "neigh add {} lladdr {mac} dev cni0 nud permanent", v6(last.into()))
            .unwrap();
    }
    node.configure(&commands).unwrap();
    for netns in [client, server, far] {
        netns.configure("link set eth0 up\n").unwrap();
    }
    // A frame to a MAC address that the bridge does not know would go to both pods.
    for (ifindex, mac) in ENDS {
        let mut bridge = Command::new("bridge");
        bridge.args(["fdb", "replace", &text(mac), "dev", &format!("pod{ifindex}")]);
        let mut bridge = node.spawn(bridge.args(["master", "static"])).unwrap();
        assert!(bridge.wait().unwrap().success(), "bridge fdb");
    }
}

fn text(mac: Mac) -> String {
    mac.octets().map(|octet| format!("{octet:02x}")).join(":")
}

/// Sends and receives whole frames at a device.
struct Wire(OwnedFd);

impl Wire {
    fn of(netns: &Netns, device: &str) -> Self {
        let opened = netns.inside(|| {
            let packet = AddressFamily::Packet;
            let all = SockProtocol::EthAll;
            let socket = socket(packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all)?;
            let mut addresses = getifaddrs()?.filter(|found| found.interface_name == device);
            let link = addresses.find_map(|found| found.address?.as_link_addr().copied());
            // Without a protocol in the address, the socket keeps its own.
            bind(socket.as_raw_fd(), &link.unwrap())?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
            Ok(socket)
        });
        Self(opened.unwrap())
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(send(self.0.as_raw_fd(), frame, MsgFlags::empty()), Ok(frame.len()));
    }

    /// The frames that have arrived.
    fn received(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; FRAME_LEN_BYTES];
        let mut frames = Vec::new();
        loop {
            let len_bytes = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return frames,
                received => received.unwrap(),
            };
            frames.push(buffer.get(..len_bytes).unwrap().to_vec());
        }
    }
}

/// A pair of devices without programs. Frames of one processor pass all devices in one queue, so when a mark has passed, each frame
/// before it has passed one device more.
pub(super) struct Marks {
    netns: Netns,
    from: Wire,
    to: Wire,
}

impl Marks {
    pub(super) fn new() -> Self {
        let netns = Netns::create(&format!("npsc-{}-marks", std::process::id())).unwrap();
        netns.set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        netns
            .configure("link add m0 type veth peer name m1\nlink set m0 up\nlink set m1 up\n")
            .unwrap();
        let [from, to] = ["m0", "m1"].map(|device| Wire::of(&netns, device));
        Self { netns, from, to }
    }

    /// Waits until every frame that was sent before has arrived or was dropped.
    fn pass(&self) {
        // A frame passes three devices at most.
        for _ in 0..4 {
            self.from.send(&[0xff; 60]);
            let arrived = recv(self.to.0.as_raw_fd(), &mut [0; FRAME_LEN_BYTES], MsgFlags::empty());
            assert_eq!(arrived, Ok(60), "a mark is lost");
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        netns::delete(self.netns.name()).ok();
    }
}
