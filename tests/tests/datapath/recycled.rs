//! Map elements that the kernel gives to another key while a program reads them.

use aya::maps::{HashMap, Map, MapData};
use netpol_common::keys::EndpointEntry;
use netpol_common::maps::{ABI_VERSION, ENDPOINTS};
use netpol_datapath::Program;
use netpol_lab::privilege::{Need, met};

use super::flow_table::{QUIET, devices, one_bucket, other, passes, syn};

/// The agent writes an endpoint without its check word, as a program would read it that sees two endpoints at once.
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
    let path = pins.0.join(format!("v{ABI_VERSION}/{ENDPOINTS}"));
    let map = Map::HashMap(MapData::from_pin(path).unwrap());
    let mut endpoints: HashMap<_, u32, [u8; size_of::<EndpointEntry>()]> = map.try_into().unwrap();
    let whole = endpoints.get(&QUIET, 0).unwrap();
    for at in 0..whole.len() {
        let mut torn = whole;
        torn[at] ^= 1;
        endpoints.insert(QUIET, torn, 0).unwrap();
        assert!(!passes(&mut datapath, Program::PodIngress, QUIET, &frame), "byte {at}");
    }
    endpoints.insert(QUIET, whole, 0).unwrap();
    assert!(passes(&mut datapath, Program::PodIngress, QUIET, &frame));
}
