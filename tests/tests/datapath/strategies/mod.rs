//! Steps: frames, answers to them, changes of policy.

mod frames;
mod map_state;

use netpol_common::ids::IfIndex;
use netpol_datapath::Program;
use netpol_lab::packets::{Ends, Frame, Packet, Segment};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use self::frames::frame;
use super::cluster_model::{NO_POD, PODS, Seen, Step, UPLINK, v4, v6};

pub(crate) use self::map_state::{allow_map, allow_map_key, endpoint, map_state};

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(80), 3 => Just(81), 2 => Just(40_000), 1 => 64_u16..96, 1 => any::<u16>()]
}

/// A frame at a hook, mostly from or to the device's pod.
fn seen() -> impl Strategy<Value = Seen> {
    let pod = select(PODS.to_vec());
    let site = prop_oneof![
        12 => (select(vec![Program::PodIngress, Program::PodEgress]), pod.clone()),
        1 => (select(vec![Program::PodIngress, Program::PodEgress]), Just(NO_POD)),
        2 => (Just(Program::UplinkEgress), Just(UPLINK)),
        2 => (Just(Program::UplinkIngress), Just(UPLINK)),
    ];
    // The egress marks 1 to 3 in the upper bits, other bits below them.
    let egress_mark = prop_oneof![2 => Just(0_u32), 1 => 1_u32..5];
    let other_bits = select(vec![0_u32, 0xc000]);
    let ingress_ifindex = prop_oneof![6 => Just(UPLINK), 1 => Just(0), 1 => pod];
    let fits = prop_oneof![9 => Just(true), 1 => Just(false)];
    (site, ingress_ifindex, egress_mark, other_bits, frame(), fits).prop_map(
        |((program, ifindex), ingress_ifindex, egress_mark, other_bits, mut frame, fits)| {
            if fits && let Frame::Ip(packet, _) = &mut frame {
                fit(packet, program, ifindex);
            }
            let mark = (egress_mark << 20) | other_bits;
            Seen { program, ifindex, ingress_ifindex, mark, frame }
        },
    )
}

/// Sets the pod's own address at its end of the packet.
fn fit(packet: &mut Packet, program: Program, ifindex: u32) {
    let Some(last) = ifindex.checked_sub(99).and_then(|last| u8::try_from(last).ok()) else {
        return;
    };
    match (&mut packet.ends, program) {
        (Ends::V4(_, own), Program::PodIngress) | (Ends::V4(own, _), Program::PodEgress) => {
            *own = v4(last);
        }
        (Ends::V6(_, own), Program::PodIngress) | (Ends::V6(own, _), Program::PodEgress) => {
            *own = v6(last.into());
        }
        (
            _,
            Program::UplinkEgress
            | Program::UplinkEgressL3
            | Program::UplinkIngress
            | Program::UplinkIngressL3,
        ) => {}
    }
}

/// A sequence of steps.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        16 => seen().prop_map(Step::See),
        1 => (allow_map_key(), allow_map()).prop_map(|(key, map)| Step::SetAllow(key, map)),
        1 => (select(PODS.to_vec()), endpoint()).prop_map(|(ifindex, value)| Step::SetEndpoint(IfIndex(ifindex), value)),
    ];
    // A frame may be repeated, answered, or followed by an ICMP error, at once or after later steps.
    let echo = select(vec![Echo::None, Echo::Same, Echo::Answer, Echo::Complaint]);
    vec((step, echo, 0_usize..3), 1..30).prop_map(|steps| {
        let mut all: Vec<Step> = Vec::new();
        let mut pending: Vec<(usize, Seen)> = Vec::new();
        for (step, echo, delay) in steps {
            if let Step::See(seen) = &step {
                pending.extend(echo.of(seen).map(|seen| (delay, seen)));
            }
            all.push(step);
            for (delay, seen) in &mut pending {
                match delay.checked_sub(1) {
                    Some(rest) => *delay = rest,
                    None => all.push(Step::See(seen.clone())),
                }
            }
        }
        all
    })
}

/// A frame that follows another one.
#[derive(Clone, Copy, Debug)]
enum Echo {
    None,
    Same,
    Answer,
    Complaint,
}

impl Echo {
    fn of(self, seen: &Seen) -> Option<Seen> {
        match self {
            Self::None => None,
            Self::Same => Some(seen.clone()),
            Self::Answer => answer(seen),
            Self::Complaint => complaint(seen),
        }
    }
}

fn swapped(ends: Ends) -> Ends {
    match ends {
        Ends::V4(src, dst) => Ends::V4(dst, src),
        Ends::V6(src, dst) => Ends::V6(dst, src),
    }
}

/// The opposite direction at the same device.
fn back(seen: &Seen) -> Option<Program> {
    match seen.program {
        Program::PodIngress => Some(Program::PodEgress),
        Program::PodEgress => Some(Program::PodIngress),
        Program::UplinkEgress
        | Program::UplinkEgressL3
        | Program::UplinkIngress
        | Program::UplinkIngressL3 => None,
    }
}

/// The frame the other way round.
fn answer(seen: &Seen) -> Option<Seen> {
    let Frame::Ip(packet, len_bytes) = &seen.frame else { return None };
    let mut packet = packet.clone();
    packet.ends = swapped(packet.ends);
    match &mut packet.segment {
        Segment::Tcp { src_port, dst_port, flags } => {
            std::mem::swap(src_port, dst_port);
            *flags |= 0x10;
        }
        Segment::Udp { src_port, dst_port } | Segment::Sctp { src_port, dst_port } => {
            std::mem::swap(src_port, dst_port);
        }
        Segment::Icmp { kind, .. } => {
            *kind = match *kind {
                8 => 0,
                128 => 129,
                other => other,
            }
        }
        Segment::Other { .. } => {}
    }
    let frame = Frame::Ip(packet, *len_bytes);
    Some(Seen { program: back(seen)?, mark: 0, frame, ..seen.clone() })
}

/// An ICMP error that quotes the frame.
fn complaint(seen: &Seen) -> Option<Seen> {
    let Frame::Ip(packet, _) = &seen.frame else { return None };
    let kind = match packet.ends {
        Ends::V4(..) => 3,
        Ends::V6(..) => 1,
    };
    let error = Segment::Icmp { kind, id: 0, quoted: Some(Box::new(packet.clone())) };
    let frame = Frame::whole(Packet::plain(swapped(packet.ends), error));
    Some(Seen { program: back(seen)?, mark: 0, frame, ..seen.clone() })
}
