//! TCX migration under traffic: every packet gets exactly one verdict, whatever happens in between.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use aya::programs::loaded_programs;
use netpol_common::addr::Addr;
use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::{AddressKey, CounterKey, EndpointValue};
use netpol_common::mac::Mac;
use netpol_common::reason::{PassReason, Verdict};
use netpol_datapath::netlink::{Position, Side, TrafficControl};
use netpol_datapath::{Attaching, Datapath, Role};
use netpol_lab::node::netns::Netns;
use netpol_lab::privilege::{Need, met};
use netpol_policy::dataplane::port::Migrated;
use netpol_policy::dataplane::port::NewInterface;
use netpol_policy::dataplane::port::{Attachments as _, Maps as _};
use netpol_policy::dataplane::{EndpointMapState, MapOp};

use super::wire::{DEVICE, Wire};

const NEEDS: [Need; 4] =
    [Need::Root, Need::Program("ip"), Need::Program("tc"), Need::Program("python3")];

/// Frames without flows, and so with a verdict for each: the pod sends later fragments without a first one, because it sends IP
/// only; the node sends frames that are not IP, because no policy applies to its packets. The pod sends a window of frames and waits for the node to
/// return them; at the end of standard input it prints their number. A lost frame makes it fail.
const FLOOD: &str = "
import select, socket, sys
device, role = sys.argv[1:]
ethernet = bytes(6 * [255]) + bytes.fromhex('020000000001')
fragment = bytes.fromhex('4500002e0001000340110000' '0a000009' '0a00000a') + bytes(26)
of_pod = ethernet + bytes.fromhex('0800') + fragment
of_node = ethernet + bytes.fromhex('88b5') + bytes(46)
frame, expected, protocol = (of_pod, of_node, 0x88b5) if role == 'pod' else (of_node, of_pod, 0x0800)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
wire.bind((device, protocol))
print('ready', flush=True)
n_sent = n_back = 0
is_over = False
while not (is_over and n_sent == n_back):
    while role == 'pod' and not is_over and n_sent - n_back < 32:
        wire.send(frame)
        n_sent += 1
    ready, _, _ = select.select([wire] + [sys.stdin] * (not is_over), [], [], 5)
    if not ready:
        if role == 'node': continue
        sys.exit(f'{n_sent - n_back} of {n_sent} frames are lost')
    if wire in ready:
        if wire.recv(2048) != expected: continue
        n_back += 1
        if role == 'node': wire.send(frame)
    if sys.stdin in ready:
        if role == 'node': break
        is_over = True
print(n_sent)
";

struct Flood {
    pod: Child,
    node: Child,
    /// The processes end at the end of their input.
    inputs: [Option<ChildStdin>; 2],
    output: ChildStdout,
}

impl Flood {
    fn begin(wire: &Wire) -> Self {
        let start = |netns: &Netns, device: &str, role: &str| {
            let mut command = Command::new("python3");
            command.args(["-c", FLOOD, device, role]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = netns.spawn(&mut command).unwrap();
            let mut output = child.stdout.take().unwrap();
            output.read_exact(&mut [0; 6]).unwrap();
            (child, output)
        };
        let (mut node, _) = start(&wire.node, DEVICE, "node");
        let (mut pod, output) = start(&wire.pod, "eth0", "pod");
        let inputs = [pod.stdin.take(), node.stdin.take()];
        Self { pod, node, inputs, output }
    }

    /// Number of frames in each direction.
    fn end(mut self) -> u64 {
        let [pod, node] = &mut self.inputs;
        *pod = None;
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        assert!(self.pod.wait().unwrap().success(), "a frame is lost");
        *node = None;
        self.node.wait().unwrap();
        said.trim().parse().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        for child in [&mut self.pod, &mut self.node] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// An endpoint in audit mode, for which every frame would be dropped in both directions and is counted instead.
fn audited_endpoint(ifindex: IfIndex) -> Vec<MapOp> {
    let both = Direction::ALL.iter().fold(0, |bits, direction| bits | direction.bit());
    let value = EndpointValue {
        state: EndpointValue::READY,
        isolated: both,
        audited: both,
        ..EndpointValue::blocked()
    };
    let container_id = Arc::from("sandbox");
    vec![
        MapOp::SetEndpoint(ifindex, EndpointMapState { value, container_id, mac: Mac::UNKNOWN }),
        MapOp::AddAddress(AddressKey { ifindex, addr: Addr::from_v4([10, 0, 0, 9]) }),
        MapOp::BumpEpoch,
    ]
}

fn n_judged(datapath: &Datapath, ifindex: IfIndex) -> BTreeMap<Direction, u64> {
    let counters = datapath.counters().unwrap();
    let verdict = Verdict::Pass(PassReason::Audited).to_wire();
    let count = |direction: Direction| {
        let key = CounterKey { ifindex, direction: direction.to_wire(), verdict, pad: [0; 2] };
        (direction, counters.get(&key).map_or(0, |counter| counter.packets))
    };
    Direction::ALL.into_iter().map(count).collect()
}

/// Runs a test under traffic, after an agent that attached filters has ended.
fn check(test: &str, happens: impl FnOnce(&Wire, IfIndex) + Send) {
    if !can_run() {
        return;
    }
    let wire = Wire::new(test);
    let ifindex = wire.ifindex();
    wire.agent(Attaching::Links, |datapath| {
        datapath.apply(&audited_endpoint(ifindex)).unwrap();
        datapath.attach_new(unshaped(ifindex)).unwrap();
        assert_eq!(datapath.awaiting_migration().unwrap(), BTreeSet::from([ifindex]));
        assert!(datapath.is_attached(ifindex).unwrap());
        assert_eq!(datapath.attached().unwrap(), BTreeMap::from([(ifindex, Role::Pod)]));
    });
    let flood = Flood::begin(&wire);
    happens(&wire, ifindex);
    let n = flood.end();
    wire.agent(Attaching::Links, |datapath| {
        assert!(n > 1000, "there were {n} frames");
        let each = Direction::ALL.into_iter().map(|direction| (direction, n)).collect();
        assert_eq!(n_judged(datapath, ifindex), each, "not every frame got one verdict");
        assert_eq!(datapath.awaiting_migration().unwrap(), BTreeSet::new());
        datapath.attach(ifindex, Role::Pod).unwrap();
        assert!(datapath.is_attached(ifindex).unwrap());
        datapath.detach(ifindex).unwrap();
        assert_eq!(datapath.attached().unwrap(), BTreeMap::new());
    });
    assert!(wire.arrives(|| false), "a program is still attached");
}

/// Migrates both filters, as the agent does.
fn migration_all(datapath: &mut Datapath, ifindex: IfIndex) {
    while let Some(migration) = datapath.begin_migration(ifindex).unwrap() {
        assert_eq!(datapath.end_migration(migration.run()).unwrap(), Migrated::Yes);
    }
}

#[test]
fn filters_become_links_and_every_packet_gets_one_verdict() {
    check("migrate", |wire, ifindex| {
        wire.agent(Attaching::Links, |datapath| {
            datapath.attach(ifindex, Role::Pod).unwrap();
            assert!(datapath.is_attached(ifindex).unwrap(), "the filter has this agent's program");
            migration_all(datapath, ifindex);
        });
    });
}

#[test]
fn an_agent_that_dies_in_an_migration_is_followed_by_one_that_finishes_it() {
    check("migrate-dies", |wire, ifindex| {
        wire.agent(Attaching::Links, |datapath| {
            // The link exists, but the migration is not finished.
            drop(datapath.begin_migration(ifindex).unwrap().unwrap().run());
        });
        wire.agent(Attaching::Links, |datapath| {
            assert_eq!(datapath.attached().unwrap(), BTreeMap::from([(ifindex, Role::Pod)]));
            datapath.attach(ifindex, Role::Pod).unwrap();
            assert!(datapath.is_attached(ifindex).unwrap());
            assert_eq!(
                datapath.awaiting_migration().unwrap(),
                BTreeSet::from([ifindex]),
                "the other one"
            );
            drop(datapath.begin_migration(ifindex).unwrap().unwrap().run());
        });
        wire.agent(Attaching::Links, |datapath| {
            migration_all(datapath, ifindex);
        });
    });
}

#[test]
fn where_another_qdisc_has_the_devices_ingress_programs_attach_to_links_or_not_at_all() {
    if !can_run() {
        return;
    }
    let wire = Wire::new("migrate-ingress");
    let ifindex = wire.ifindex();
    wire.tc(&["qdisc", "add", "dev", DEVICE, "ingress"]);
    wire.agent(Attaching::Filters, |datapath| {
        let refused = datapath.attach(ifindex, Role::Pod).unwrap_err().to_string();
        assert!(refused.contains("its queueing discipline ingress excludes clsact"), "{refused}");
        assert_eq!(datapath.attached().unwrap(), BTreeMap::new());
    });
    wire.agent(Attaching::Links, |datapath| {
        datapath.attach_new(unshaped(ifindex)).unwrap();
        assert_eq!(datapath.awaiting_migration().unwrap(), BTreeSet::new());
        assert!(datapath.is_attached(ifindex).unwrap());
    });
}

#[test]
fn where_another_plugin_may_need_the_devices_ingress_it_stays_free() {
    if !can_run() {
        return;
    }
    let wire = Wire::new("migrate-shaped");
    let ifindex = wire.ifindex();
    wire.agent(Attaching::Links, |datapath| {
        datapath.attach_new(NewInterface { ifindex, is_unshaped: false }).unwrap();
        assert_eq!(datapath.awaiting_migration().unwrap(), BTreeSet::new());
        assert!(datapath.is_attached(ifindex).unwrap());
    });
    wire.tc(&["qdisc", "add", "dev", DEVICE, "ingress"]);
}

#[test]
fn a_filter_beside_those_of_others_stays() {
    if !can_run() {
        return;
    }
    let wire = Wire::new("migrate-shared");
    let ifindex = wire.ifindex();
    wire.agent(Attaching::Links, |datapath| {
        datapath.attach_new(unshaped(ifindex)).unwrap();
        let any = loaded_programs().filter_map(Result::ok);
        let any = any.filter(|program| program.name_as_str() == Some("pod_ingress")).last();
        let (any, theirs) = (any.unwrap().fd().unwrap(), Position { priority: 7, handle: 1 });
        let mut kernel = TrafficControl::open().unwrap();
        kernel.set_filter(ifindex, Side::Egress, theirs, (any.as_fd(), "theirs")).unwrap();
        let migration = datapath.begin_migration(ifindex).unwrap().unwrap();
        assert_eq!(datapath.end_migration(migration.run()).unwrap(), Migrated::Shared);
        assert!(datapath.is_attached(ifindex).unwrap());
        kernel.remove_filter(ifindex, Side::Egress, theirs).unwrap();
        let migration = datapath.begin_migration(ifindex).unwrap().unwrap();
        assert_eq!(datapath.end_migration(migration.run()).unwrap(), Migrated::Yes);
    });
}

#[test]
fn an_interface_whose_filter_is_gone_counts_as_one_without_programs() {
    if !can_run() {
        return;
    }
    let wire = Wire::new("migrate-gone");
    let ifindex = wire.ifindex();
    wire.agent(Attaching::Links, |datapath| {
        datapath.attach_new(unshaped(ifindex)).unwrap();
        wire.tc(&["filter", "del", "dev", DEVICE, "ingress"]);
        assert!(!datapath.is_attached(ifindex).unwrap());
        datapath.attach(ifindex, Role::Pod).unwrap();
        assert!(datapath.is_attached(ifindex).unwrap());
        wire.tc(&["qdisc", "del", "dev", DEVICE, "clsact"]);
        assert!(!datapath.is_attached(ifindex).unwrap());
        datapath.attach_new(unshaped(ifindex)).unwrap();
        assert!(datapath.is_attached(ifindex).unwrap());
    });
}

fn unshaped(ifindex: IfIndex) -> NewInterface {
    NewInterface { ifindex, is_unshaped: true }
}

#[expect(clippy::print_stdout, reason = "skipped tests must be visible")]
fn can_run() -> bool {
    let has_links = Attaching::of_this_kernel() == Attaching::Links;
    if !has_links {
        println!("SKIP: this kernel has no TCX links");
    }
    has_links && met(&NEEDS)
}

#[test]
fn an_unfinished_migration_is_uninstalled() {
    if !can_run() {
        return;
    }
    let wire = Wire::new("migrate-uninstall");
    let ifindex = wire.ifindex();
    wire.agent(Attaching::Links, |datapath| {
        datapath.attach_new(unshaped(ifindex)).unwrap();
        drop(datapath.begin_migration(ifindex).unwrap().unwrap().run());
    });
    wire.node
        .inside(|| {
            let (removed, errors) = netpol_datapath::uninstall(wire.pins());
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(removed.n_attachments, 2);
            Ok(())
        })
        .unwrap();
    assert!(!wire.pins().exists());
    assert!(wire.arrives(|| false));
}
