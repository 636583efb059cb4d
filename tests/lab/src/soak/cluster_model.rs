//! The cluster of a soak: its policies, its pods, and the expected verdicts.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::PacketBuilder;
use fastrand::Rng;
use netpol_datapath::{Datapath, Mount, Program, TestContext};
use netpol_policy::model::Kind;
use netpol_proto::{Add, Attachment, PodRef, Request, Response};
use serde_json::{Value, json};

use crate::fake_api::FakeApi;
use crate::node::netns::Netns;
use crate::node::wait::{LIMIT, Look, until};
use crate::node::{Host, Lab, Passing, PodSpec, agent};

/// The namespace of all pods of a soak.
pub(super) const NAMESPACE: &str = "soak";

/// Endpoint `i` has policy `i % N_POLICIES`, which allows group `i % N_POLICIES` on this port.
const N_POLICIES: u32 = 10;
const PORT: u16 = 80;

/// Address `j` always belongs to group `j % N_GROUPS`; no policy allows the last group.
const N_GROUPS: u32 = N_POLICIES + 1;

/// Addresses of remote pods. The first ones belong to permanent pods, the others to transient ones.
const N_STABLE: u32 = 110;
const N_ADDRESSES: u32 = 4400;

/// Number of transient remote pods at a time.
const N_ALIVE: usize = 500;

/// The cluster, and the pinned maps with the verdicts under test.
pub(super) struct ClusterModel {
    pub(super) api: Arc<FakeApi>,
    kernel: Datapath,
    /// The interfaces of the permanent endpoints.
    interfaces: Vec<u32>,
    /// The ingress device of test packets.
    from: u32,
    alive: VecDeque<(String, u32)>,
    next_address: u32,
    n_created: u64,
    has_extra: bool,
}

/// Addresses of the transient pods at a point in time.
pub(super) struct Snapshot(BTreeSet<u32>);

impl ClusterModel {
    /// Makes the cluster. Must run in the node's network namespace.
    pub(super) fn build(lab: &Lab, n_endpoints: u32) -> Result<Self> {
        let api = lab.shared_api().context("no API server")?;
        for k in 0..N_POLICIES {
            api.put(policy(&format!("policy-{k}"), k, PORT)).context("a policy")?;
        }
        for j in 0..N_STABLE {
            api.put(remote_pod(&format!("stable-{j}"), j)).context("a pod")?;
        }
        let node = lab.netns(&Host::Node)?;
        let interfaces = add_endpoints(lab, node, &api, n_endpoints)?;
        let kernel = Datapath::load(&netpol_datapath::Config {
            pin_root: Some(lab.agent_config().pins.clone()),
            mount: Mount::Never,
            ..netpol_datapath::Config::default()
        })?;
        let from = node.interface_index("eth0")?;
        let mut cluster = Self {
            api,
            kernel,
            interfaces,
            from,
            alive: VecDeque::new(),
            next_address: N_STABLE,
            n_created: 0,
            has_extra: false,
        };
        cluster.converge()?;
        Ok(cluster)
    }

    /// Creates `n` remote pods and deletes as many of the oldest; returns the number.
    pub(super) fn replace_pods(&mut self, n: u32) -> Result<u32> {
        for _ in 0..n {
            self.n_created += 1;
            let name = format!("remote-{}", self.n_created);
            let address = self.next_address;
            self.next_address += 1;
            if self.next_address == N_ADDRESSES {
                self.next_address = N_STABLE;
            }
            self.api.put(remote_pod(&name, address)).context("a pod")?;
            self.alive.push_back((name, address));
            if self.alive.len() > N_ALIVE {
                self.delete_oldest()?;
            }
        }
        Ok(n)
    }

    fn delete_oldest(&mut self) -> Result<()> {
        let Some((name, _)) = self.alive.pop_front() else { return Ok(()) };
        self.api.delete(Kind::Pod, NAMESPACE, &name).context("a pod that was there")?;
        Ok(())
    }

    /// Checks the verdict for a permanent address, or for one that is never allowed: both are known at any time.
    pub(super) fn ask_stable(&mut self, rng: &mut Rng) -> Result<()> {
        let (i, interface) = self.any_endpoint(rng)?;
        let j = rng.u32(..N_ADDRESSES);
        let is_let_in = j % N_GROUPS == i % N_POLICIES;
        match (is_let_in, j < N_STABLE) {
            (false, _) => self.expect(Passing::No, interface, address(j)),
            (true, true) => self.expect(Passing::Yes, interface, address(j)),
            // A transient pod may exist or not, so check the next address, which is not allowed here.
            (true, false) => self.expect(Passing::No, interface, address(j + 1)),
        }
    }

    /// The current transient pods.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot(self.alive.iter().map(|(_, address)| *address).collect())
    }

    /// Checks verdicts for transient addresses, when exactly `in_force` is known to be in force.
    pub(super) fn ask_converged(&mut self, rng: &mut Rng, in_force: &Snapshot) -> Result<u64> {
        let Snapshot(alive) = in_force;
        let mut n = 0;
        for _ in 0..100 {
            let (i, interface) = self.any_endpoint(rng)?;
            let j = N_STABLE + rng.u32(..N_ADDRESSES - N_STABLE);
            // Half of the checks are for the allowed group.
            let j = if n % 2 == 0 { j - j % N_GROUPS + i % N_POLICIES } else { j };
            let expected = if alive.contains(&j) && j % N_GROUPS == i % N_POLICIES {
                Passing::Yes
            } else {
                Passing::No
            };
            self.expect(expected, interface, address(j))?;
            n += 1;
        }
        Ok(n)
    }

    fn any_endpoint(&self, rng: &mut Rng) -> Result<(u32, u32)> {
        let chosen = rng.choice(self.interfaces.iter().enumerate());
        let (i, interface) = chosen.context("an endpoint")?;
        Ok((u32::try_from(i)?, *interface))
    }

    /// Checks the verdict for one packet.
    fn expect(&mut self, expected: Passing, interface: u32, from: Ipv4Addr) -> Result<()> {
        let found = self.passes(interface, from)?;
        ensure!(
            found == expected,
            "does a packet from {from} to the endpoint on interface {interface} pass? {found:?}, should be {expected:?}"
        );
        Ok(())
    }

    /// Whether no allowed address reaches an interface.
    pub(super) fn is_closed(&mut self, interface: u32) -> Result<bool> {
        let passing = (0..N_GROUPS).map(|j| self.passes(interface, address(j)));
        Ok(passing.collect::<Result<Vec<_>>>()?.iter().all(|passing| *passing == Passing::No))
    }

    /// Whether the first packet of a connection passes. First packets always take the slow path.
    fn passes(&mut self, interface: u32, from: Ipv4Addr) -> Result<Passing> {
        // A broadcast frame is for every pod, whatever its MAC address.
        let builder = PacketBuilder::ethernet2([2; 6], [0xff; 6])
            .ipv4(from.octets(), [10, 251, 0, 1], 64)
            .tcp(40_000, PORT, 1, 1024)
            .syn();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[])?;
        let context = TestContext { ifindex: interface, ingress_ifindex: self.from, mark: 0 };
        let outcome = self.kernel.test_run(Program::PodIngress, &frame, context)?;
        Ok(if outcome.is_pass() { Passing::Yes } else { Passing::No })
    }

    /// Waits until all changes so far are in force, by creating and deleting one more pod; returns the two delays.
    pub(super) fn converge(&mut self) -> Result<[Duration; 2]> {
        self.converge_within(LIMIT)
    }

    /// The same, with a deadline.
    #[expect(clippy::disallowed_methods, reason = "what is measured")]
    pub(super) fn converge_within(&mut self, limit: Duration) -> Result<[Duration; 2]> {
        let (interface, witness) =
            (*self.interfaces.first().context("an endpoint")?, N_ADDRESSES / N_GROUPS * N_GROUPS);
        let wait = |cluster: &mut Self, wanted: Passing| {
            let begin = Instant::now();
            until("the last change is in force", limit, || {
                Ok(if cluster.passes(interface, address(witness))? == wanted {
                    Look::Done(begin.elapsed())
                } else {
                    Look::NotYet(format!("not {wanted:?}"))
                })
            })
        };
        self.api.put(remote_pod("witness", witness)).context("the witness")?;
        let came = wait(self, Passing::Yes)?;
        self.api.delete(Kind::Pod, NAMESPACE, "witness").context("the witness")?;
        let went = wait(self, Passing::No)?;
        Ok([came, went])
    }

    /// Adds or removes a policy that allows another port: allow maps change, the checked verdicts do not.
    pub(super) fn change_policy(&mut self, round: u64) -> Result<()> {
        if self.has_extra {
            self.api.delete(Kind::NetworkPolicy, NAMESPACE, "extra").context("the policy")?;
        } else {
            let k = u32::try_from(round % u64::from(N_POLICIES))?;
            self.api.put(policy("extra", k, PORT + 1)).context("a policy")?;
        }
        self.has_extra = !self.has_extra;
        Ok(())
    }

    /// Deletes all transient pods.
    pub(super) fn calm(&mut self) -> Result<()> {
        while !self.alive.is_empty() {
            self.delete_oldest()?;
        }
        if self.has_extra {
            self.change_policy(0)?;
        }
        self.converge().map(drop)
    }

    /// Deletes a pod by its name.
    pub(super) fn forget_pod(&self, name: &str) -> Result<()> {
        self.api.delete(Kind::Pod, NAMESPACE, name).map(drop).context("a pod that was there")
    }

    /// Number of permanent addresses that some policy allows.
    pub(super) fn n_stable_identities() -> usize {
        (0..N_STABLE).filter(|j| j % N_GROUPS < N_POLICIES).count()
    }
}

/// Makes the permanent endpoints; returns their interfaces.
fn add_endpoints(lab: &Lab, node: &Netns, api: &FakeApi, n_endpoints: u32) -> Result<Vec<u32>> {
    let mut commands = String::new();
    for i in 0..n_endpoints {
        // The peer device stays down, so no packet leaves through it.
        writeln!(commands, "link add sv{i} type veth peer name sw{i}\nlink set sv{i} up")?;
    }
    node.configure(&commands)?;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut interfaces = Vec::new();
    for i in 0..n_endpoints {
        let index = rustix::net::netdevice::name_to_index(&socket, &format!("sv{i}"))?;
        interfaces.push(index);
        api.put(local_pod(&format!("local-{i}"), i, None)).context("a pod")?;
    }
    let path = lab.agent_config().socket();
    let numbered: Vec<(u32, u32)> = (0..).zip(interfaces.iter().copied()).collect();
    thread::scope(|scope| {
        let work = |chunk: &[(u32, u32)]| -> Result<()> {
            for (i, index) in chunk {
                let name = format!("local-{i}");
                let added = add(&name, &name, &format!("sv{i}"), *index, local_address(*i));
                expect_ok(&path, &Request::Add(added))?;
            }
            Ok(())
        };
        let running: Vec<_> =
            numbered.chunks(25).map(|chunk| scope.spawn(move || work(chunk))).collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    for i in 0..n_endpoints {
        api.put(local_pod(&format!("local-{i}"), i, Some(local_address(i)))).context("a pod")?;
    }
    Ok(interfaces)
}

pub(super) fn expect_ok(socket: &std::path::Path, request: &Request) -> Result<()> {
    match agent::call(socket, request)? {
        Response::Ok => Ok(()),
        Response::Error { message, .. } => bail!("{} of the agent: {message}", request.verb()),
    }
}

pub(super) fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.to_owned(), container_ifname: "eth0".to_owned() }
}

pub(super) fn add(pod: &str, container: &str, device: &str, index: u32, address: Ipv4Addr) -> Add {
    Add {
        attachment: attachment(container),
        network: "soak".to_owned(),
        netns: String::new(),
        host_ifname: device.to_owned(),
        host_ifindex: index,
        pod: PodRef { namespace: NAMESPACE.to_owned(), name: pod.to_owned(), uid: None },
        addresses: vec![address.into()],
        is_unshaped: true,
    }
}

/// The address of a remote pod.
fn address(j: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0afa_0000 + j)
}

/// The address of a permanent endpoint.
fn local_address(i: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0afb_0001 + i)
}

fn policy(name: &str, k: u32, port: u16) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "podSelector": { "matchLabels": { "app": format!("app-{k}") } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "group": format!("group-{k}") } } }],
                "ports": [{ "port": port }],
            }],
        },
    })
}

fn remote_pod(name: &str, j: u32) -> Value {
    let group = format!("group-{}", j % N_GROUPS);
    let spec = PodSpec::new(&format!("{NAMESPACE}/{name}"), &[("group", &group)], &[]);
    let mut object = spec.object(&format!("uid-{name}"), &[IpAddr::V4(address(j))]);
    if let Some(node) = object.pointer_mut("/spec/nodeName") {
        *node = json!("node-2");
    }
    object
}

pub(super) fn local_pod(name: &str, i: u32, address: Option<Ipv4Addr>) -> Value {
    let app = format!("app-{}", i % N_POLICIES);
    let spec = PodSpec::new(&format!("{NAMESPACE}/{name}"), &[("app", &app)], &[PORT]);
    let addresses: Vec<IpAddr> = address.into_iter().map(IpAddr::V4).collect();
    spec.object(&format!("uid-{name}"), &addresses)
}
