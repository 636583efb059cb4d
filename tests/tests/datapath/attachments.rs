//! Programs and maps that outlive the agent, on real devices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::{Direction, IfIndex};
use netpol_common::keys::{AddressKey, CounterKey, EndpointValue};
use netpol_common::mac::Mac;
use netpol_common::maps::{ABI_VERSION, ENDPOINTS, FLOWS};
use netpol_common::reason::{DropReason, Verdict};
use netpol_datapath::{Attaching, Config, Datapath, Error, Role};
use netpol_lab::privilege::{Need, met};
use netpol_policy::dataplane::port::{Attachments as _, Flows as _, Maps as _};
use netpol_policy::dataplane::{EndpointMapState, MapOp};

use super::wire::{POD, Wire};

const NEEDS: [Need; 2] = [Need::Root, Need::Program("ip")];

/// Number of packets from the pod dropped for this reason.
fn n_dropped(datapath: &Datapath, ifindex: IfIndex, reason: DropReason) -> u64 {
    let key = CounterKey {
        ifindex,
        direction: Direction::Egress.to_wire(),
        verdict: Verdict::Drop(reason).to_wire(),
        pad: [0; 2],
    };
    datapath.counters().unwrap().get(&key).map_or(0, |counter| counter.packets)
}

/// An endpoint that is not isolated.
fn open_endpoint(ifindex: IfIndex) -> Vec<MapOp> {
    let value = EndpointValue { state: EndpointValue::READY, ..EndpointValue::blocked() };
    vec![
        MapOp::AddAddress(AddressKey { ifindex, addr: POD.into() }),
        MapOp::SetEndpoint(
            ifindex,
            EndpointMapState { value, container_id: Arc::from("sandbox"), mac: Mac::UNKNOWN },
        ),
        MapOp::BumpEpoch,
    ]
}

fn outlives_the_agent(test: &str, attaching: Attaching) {
    if !met(&NEEDS) {
        return;
    }
    let wire = Wire::new(test);
    let ifindex = wire.ifindex();
    let attached = BTreeMap::from([(ifindex, Role::Pod)]);
    assert!(wire.arrives(|| false), "nothing is attached yet");
    let unknown = |datapath: &Datapath| n_dropped(datapath, ifindex, DropReason::UnknownEndpoint);
    let before = wire.agent(attaching, |datapath| {
        datapath.attach(ifindex, Role::Pod).unwrap();
        assert_eq!(datapath.attached().unwrap(), attached);
        let before = unknown(datapath);
        assert!(!wire.arrives(|| unknown(datapath) > before));
        unknown(datapath)
    });
    // Without an agent: the next one counts the drop.
    let reader = wire.agent(attaching, |datapath| {
        assert_eq!(datapath.attached().unwrap(), attached);
        // ARP drops too, so there may be more than one.
        assert!(unknown(datapath) >= before);
        let before = unknown(datapath);
        assert!(!wire.arrives(|| unknown(datapath) > before), "the programs of before go on");
        datapath.attach(ifindex, Role::Pod).unwrap();
        datapath.apply(&open_endpoint(ifindex)).unwrap();
        assert!(wire.arrives(|| false));
        (datapath.map_state().unwrap(), datapath.flows().unwrap().len())
    });
    assert!(wire.arrives(|| false), "allowed traffic stops without an agent");
    wire.agent(attaching, |datapath| {
        assert_eq!((datapath.map_state().unwrap(), datapath.flows().unwrap().len()), reader);
        datapath.attach(ifindex, Role::Pod).unwrap();
        assert!(wire.arrives(|| false));
        datapath.apply(&[MapOp::RemoveEndpoint(ifindex)]).unwrap();
        datapath.collect_garbage().unwrap();
        assert!(datapath.flows().unwrap().is_empty());
        assert!(datapath.counters().unwrap().keys().all(|key| key.ifindex != ifindex));
        let before = unknown(datapath);
        assert!(!wire.arrives(|| unknown(datapath) > before));
        datapath.detach(ifindex).unwrap();
        assert_eq!(datapath.attached().unwrap(), BTreeMap::new());
    });
    assert!(wire.arrives(|| false), "nothing is attached any more");
}

#[test]
fn programs_on_links_and_their_maps_outlive_the_agent() {
    if Attaching::of_this_kernel() == Attaching::Links {
        outlives_the_agent("links", Attaching::Links);
    } else {
        println!("SKIP: this kernel has no TCX links");
    }
}

#[test]
fn programs_on_filters_and_their_maps_outlive_the_agent() {
    outlives_the_agent("filters", Attaching::Filters);
}

/// The old version blocks and the new one allows, so that the test sees which one is in force.
fn another_version_is_replaced(test: &str, before: Attaching, after: Attaching) {
    if !met(&NEEDS) {
        return;
    }
    let wire = Wire::new(test);
    let ifindex = wire.ifindex();
    let unknown = |datapath: &Datapath| n_dropped(datapath, ifindex, DropReason::UnknownEndpoint);
    // Both ends have neighbour entries now, so the dropped packet is the datagram.
    assert!(wire.arrives(|| false), "nothing is attached yet");
    let n_before = wire.agent(before, |datapath| {
        datapath.attach(ifindex, Role::Pod).unwrap();
        let before = unknown(datapath);
        assert!(!wire.arrives(|| unknown(datapath) > before));
        unknown(datapath)
    });
    let own = wire.pins().join(format!("v{ABI_VERSION}"));
    let other = wire.pins().join(format!("v{}", ABI_VERSION + 1));
    std::fs::rename(&own, &other).unwrap();
    wire.agent(after, |datapath| {
        assert!(datapath.has_predecessor());
        assert_eq!(datapath.attached().unwrap(), BTreeMap::new());
        assert!(unknown(datapath) >= n_before, "counters are not carried over");
        datapath.apply(&open_endpoint(ifindex)).unwrap();
        let before = unknown(datapath);
        assert!(!wire.arrives(|| unknown(datapath) > before), "the programs of before go on");
        datapath.retire_predecessor().unwrap();
        assert!(!datapath.has_predecessor() && !other.exists());
        assert_eq!(datapath.attached().unwrap(), BTreeMap::from([(ifindex, Role::Pod)]));
        assert!(datapath.is_attached(ifindex).unwrap());
        assert!(wire.arrives(|| false), "an old program is still attached");
        datapath.detach(ifindex).unwrap();
    });
}

#[test]
fn another_versions_filters_are_replaced_in_place() {
    another_version_is_replaced("succeed-f", Attaching::Filters, Attaching::Filters);
}

#[test]
fn another_versions_links_are_replaced_in_place_and_filters_by_links() {
    if Attaching::of_this_kernel() == Attaching::Links {
        another_version_is_replaced("succeed-l", Attaching::Links, Attaching::Links);
        another_version_is_replaced("succeed-b", Attaching::Filters, Attaching::Links);
    } else {
        println!("SKIP: this kernel has no TCX links");
    }
}

#[test]
fn a_device_that_gets_the_index_of_one_that_is_gone_is_attached_to_anew() {
    if !met(&NEEDS) {
        return;
    }
    let wire = Wire::new("again");
    let ifindex = wire.ifindex();
    let attaching = Attaching::of_this_kernel();
    wire.agent(attaching, |datapath| datapath.attach(ifindex, Role::Pod).unwrap());
    wire.node.configure("link delete host0\n").unwrap();
    wire.connect(&format!("index {ifindex}"));
    assert!(wire.arrives(|| false), "programs are attached");
    wire.agent(attaching, |datapath| {
        datapath.attach(ifindex, Role::Pod).unwrap();
        let unknown =
            |datapath: &Datapath| n_dropped(datapath, ifindex, DropReason::UnknownEndpoint);
        let before = unknown(datapath);
        assert!(!wire.arrives(|| unknown(datapath) > before));
    });
    wire.node.configure("link delete host0\n").unwrap();
    wire.agent(attaching, |datapath| {
        assert_eq!(datapath.attached().unwrap(), BTreeMap::new());
        let gone = datapath.attach(ifindex, Role::Pod);
        assert!(matches!(gone, Err(Error::NoDevice { .. })), "{gone:?}");
        datapath.detach(ifindex).unwrap();
    });
}

#[test]
fn uninstalling_leaves_no_pin_and_no_program() {
    if !met(&NEEDS) {
        return;
    }
    let wire = Wire::new("uninstall");
    let ifindex = wire.ifindex();
    let config = wire.config(Attaching::of_this_kernel());
    wire.node
        .inside(|| {
            let mut datapath = Datapath::load(&config)?;
            datapath.attach(ifindex, Role::Pod)?;
            datapath.attach(ifindex, Role::Uplink)?;
            assert!(wire.pins().exists());
            // A running agent would keep them alive.
            drop(datapath);
            let (removed, errors) = netpol_datapath::uninstall(wire.pins());
            assert!(errors.is_empty(), "{errors:?}");
            assert_eq!(removed.n_attachments, 4);
            let (removed, errors) = netpol_datapath::uninstall(wire.pins());
            assert!(
                removed == netpol_datapath::Removed::default() && errors.is_empty(),
                "{errors:?}"
            );
            Ok(())
        })
        .unwrap();
    assert!(!wire.pins().exists());
    assert!(wire.arrives(|| false));
}

#[test]
fn pins_of_another_layout_are_refused_and_left_alone() {
    if !met(&NEEDS) {
        return;
    }
    let wire = Wire::new("layout");
    let config = wire.config(Attaching::of_this_kernel());
    drop(Datapath::load(&config).unwrap());
    let capacities = BTreeMap::from([(ENDPOINTS, 5)]);
    let refused = Datapath::load(&Config { capacities, ..config.clone() }).err().unwrap();
    let Error::PinIncompatible { path, property, expected, found } = refused else {
        panic!("{refused:?}")
    };
    assert!(path.ends_with(format!("v{ABI_VERSION}/ENDPOINTS")), "{path:?}");
    assert_eq!((property, expected, found), ("capacity", 5, 4096));
    drop(Datapath::load(&config).unwrap());
}

#[test]
fn capacities_are_those_that_are_asked_for() {
    if !met(&NEEDS) {
        return;
    }
    let capacities = BTreeMap::from([(ENDPOINTS, 2), (FLOWS, 8)]);
    let mut datapath = Datapath::load(&Config { capacities, ..Config::private() }).unwrap();
    let endpoints: BTreeSet<u32> = [5, 6, 7].into();
    let ops: Vec<MapOp> = endpoints
        .iter()
        .map(|ifindex| {
            let endpoint = EndpointMapState::blocked(&Arc::from("sandbox"));
            MapOp::SetEndpoint(IfIndex(*ifindex), endpoint)
        })
        .collect();
    let refused = datapath.apply(&ops).unwrap_err();
    assert_eq!(refused.to_string(), "map ENDPOINTS is full: it holds 2 entries");
    let private = datapath.attach(IfIndex(1), Role::Pod);
    assert!(matches!(private, Err(Error::NotPinned)), "{private:?}");
}
