//! Map elements that the kernel gives to another key, or that the agent writes, while a program reads them.

use aya::maps::{Array, HashMap, Map, MapData};
use netpol_common::ids::IfIndex;
use netpol_common::keys::{EndpointEntry, EndpointSlot};
use netpol_common::mac::MacSlot;
use netpol_common::maps::{ABI_VERSION, ENDPOINT_SLOTS, ENDPOINTS};
use netpol_datapath::Program;
use netpol_lab::privilege::{Need, met};

use super::flow_table::{QUIET, devices, one_bucket, other, passes, syn};

/// A program reads an endpoint as if it saw two of them at once: in the array of copies, in ENDPOINTS, or in both.
#[test]
fn an_endpoint_that_is_not_whole_lets_nothing_pass() {
    if !met(&[Need::Root]) {
        return;
    }
    let _devices = devices();
    let (pins, _config, mut datapath) = one_bucket("recycled");
    // The first packet of a TCP connection is always decided.
    let frame = syn(other(0));
    assert!(passes(&mut datapath, Program::PodIngress, QUIET, &frame));
    let pinned =
        |name: &str| MapData::from_pin(pins.0.join(format!("v{ABI_VERSION}/{name}"))).unwrap();
    let mut endpoints: HashMap<_, u32, [u8; size_of::<EndpointEntry>()]> =
        Map::HashMap(pinned(ENDPOINTS)).try_into().unwrap();
    let mut copies: Array<_, [u8; size_of::<EndpointSlot>()]> =
        Map::Array(pinned(ENDPOINT_SLOTS)).try_into().unwrap();
    let index = MacSlot::index(IfIndex(QUIET));
    let (whole, copy) = (endpoints.get(&QUIET, 0).unwrap(), copies.get(&index, 0).unwrap());
    assert_eq!(copy[size_of::<MacSlot>()..], whole);
    for at in 0..copy.len() {
        let mut torn = copy;
        torn[at] ^= 1;
        copies.set(index, torn, 0).unwrap();
        assert!(passes(&mut datapath, Program::PodIngress, QUIET, &frame), "byte {at} of the copy");
    }
    copies.set(index, [0; size_of::<EndpointSlot>()], 0).unwrap();
    for at in 0..whole.len() {
        let mut torn = whole;
        torn[at] ^= 1;
        endpoints.insert(QUIET, torn, 0).unwrap();
        assert!(!passes(&mut datapath, Program::PodIngress, QUIET, &frame), "byte {at}");
        let mut both = [0; size_of::<EndpointSlot>()];
        both[..size_of::<MacSlot>()].copy_from_slice(&copy[..size_of::<MacSlot>()]);
        both[size_of::<MacSlot>()..].copy_from_slice(&torn);
        copies.set(index, both, 0).unwrap();
        assert!(!passes(&mut datapath, Program::PodIngress, QUIET, &frame), "byte {at} of both");
        copies.set(index, [0; size_of::<EndpointSlot>()], 0).unwrap();
    }
    endpoints.insert(QUIET, whole, 0).unwrap();
    assert!(passes(&mut datapath, Program::PodIngress, QUIET, &frame));
}
