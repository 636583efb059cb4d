//! A pod and its node: two network namespaces with a veth pair between them.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use netpol_common::ids::IfIndex;
use netpol_datapath::{Attaching, Config, Datapath};
use netpol_lab::node::netns::{self, Netns};

/// The node's address on the wire.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// The pod's.
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
/// The host-side veth device.
pub(crate) const DEVICE: &str = "host0";
const PORT: u16 = 5000;
/// Wait for a packet before checking whether it was dropped, and number of attempts: five seconds in all.
const TRY: Duration = Duration::from_millis(10);
const N_TRIES: usize = 500;

/// The namespaces and a pin folder, removed on drop.
pub(crate) struct Wire {
    pub(crate) node: Netns,
    pub(crate) pod: Netns,
    pins: PathBuf,
}

impl Wire {
    /// A wire that is up, between namespaces named after the test.
    pub(crate) fn new(test: &str) -> Self {
        let name = |end: &str| format!("npdp-{}-{test}-{end}", std::process::id());
        let wire = Self {
            node: Netns::create(&name("node")).unwrap(),
            pod: Netns::create(&name("pod")).unwrap(),
            pins: PathBuf::from(format!("/sys/fs/bpf/{}", name("pins"))),
        };
        wire.connect("");
        wire
    }

    /// Makes the veth pair; `which` may set the index of the host-side device. The devices have no link-local IPv6 addresses,
    /// because the kernel's neighbour discovery packets would be counted too.
    pub(crate) fn connect(&self, which: &str) {
        let pod = self.pod.name();
        self.node
            .configure(&format!(
                "link add {DEVICE} {which} type veth peer name eth0 netns {pod}\n\
                 addr add {NODE}/24 dev {DEVICE}\nlink set {DEVICE} addrgenmode none up\n"
            ))
            .unwrap();
        let addresses = format!("addr add {POD}/24 dev eth0\nlink set eth0 addrgenmode none up\n");
        self.pod.configure(&addresses).unwrap();
    }

    pub(crate) fn ifindex(&self) -> IfIndex {
        IfIndex(self.node.interface_index(DEVICE).unwrap())
    }

    pub(crate) fn pins(&self) -> &PathBuf {
        &self.pins
    }

    /// Runs `tc` on the node.
    pub(crate) fn tc(&self, args: &[&str]) {
        let mut tc = self.node.spawn(Command::new("tc").args(args)).unwrap();
        assert!(tc.wait().unwrap().success(), "tc {args:?}");
    }

    pub(crate) fn config(&self, attaching: Attaching) -> Config {
        Config { pin_root: Some(self.pins.clone()), attaching, ..Config::default() }
    }

    /// Runs code with a datapath on the node, as an agent, then drops the datapath.
    pub(crate) fn agent<T: Send>(
        &self,
        attaching: Attaching,
        work: impl FnOnce(&mut Datapath) -> T + Send,
    ) -> T {
        let config = self.config(attaching);
        self.node.inside(|| Ok(work(&mut Datapath::load(&config)?))).unwrap()
    }

    /// Whether a datagram from the pod arrives at the node; `lost` returns whether it was dropped.
    pub(crate) fn arrives(&self, mut lost: impl FnMut() -> bool + Send) -> bool {
        self.node
            .inside(|| {
                let node = UdpSocket::bind((NODE, PORT))?;
                node.set_read_timeout(Some(TRY))?;
                self.pod.inside(|| {
                    UdpSocket::bind((POD, PORT))?.send_to(b"hello", (NODE, PORT))?;
                    Ok(())
                })?;
                for _ in 0..N_TRIES {
                    if node.recv(&mut [0; 16]).is_ok() {
                        return Ok(true);
                    }
                    if lost() {
                        return Ok(false);
                    }
                }
                anyhow::bail!("the datagram neither arrived nor was dropped")
            })
            .unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The devices go with their namespaces; errors cannot be returned from drop.
        for netns in [&self.node, &self.pod] {
            netns::delete(netns.name()).ok();
        }
        fs::remove_dir_all(&self.pins).ok();
    }
}
