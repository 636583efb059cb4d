//! Many pods at once, with the real plugin and the real agent; and uplinks that appear and disappear.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use netpol_agent::agent::Protection;
use netpol_lab::node::wait::{LIMIT, Look, until};
use netpol_lab::node::{Host, Lab, PodSpec};
use netpol_lab::settings;
use netpol_policy::dataplane::port::Maps as _;

use super::{DENY_ALL, lab, maps};

/// Default number of pods; `NETPOL_PODS=200` is a large node.
const N_PODS: usize = 24;

/// The pins of attached programs.
fn pins(lab: &Lab) -> Result<BTreeSet<String>> {
    let folder =
        lab.agent_config().pins.join(format!("v{}/links", netpol_common::maps::ABI_VERSION));
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Waits for exactly these pins.
/// The pins of a device that leads off the node.
fn uplink_pins(ifindex: u32) -> BTreeSet<String> {
    ["uplink_egress", "uplink_ingress"].map(|program| format!("{ifindex}-{program}")).into()
}

fn wait_for_pins(lab: &Lab, wanted: &BTreeSet<String>) -> Result<()> {
    until("the pins", LIMIT, || {
        let found = pins(lab)?;
        Ok(if found == *wanted { Look::Done(()) } else { Look::NotYet(format!("{found:?}")) })
    })
}

#[test]
fn many_pods_are_added_and_deleted_at_once_without_leftovers() -> Result<()> {
    let Some(mut lab) = lab("crowd")? else { return Ok(()) };
    let n_pods = settings::n_pods(N_PODS);
    lab.manifests().write("deny.yaml", DENY_ALL)?;
    // The first pod creates the bridge.
    lab.add_pods_at_once(vec![PodSpec::new("shop/first", &[], &[])])?;
    lab.delete_pods_at_once(&["shop/first".to_owned()])?;
    let before = until("the first pod to be gone", LIMIT, || {
        let pins = pins(&lab)?;
        // The bridge is no uplink; only eth0 is.
        Ok(if pins == uplink_pins(lab.netns(&Host::Node)?.interface_index("eth0")?) {
            Look::Done(pins)
        } else {
            Look::NotYet(format!("{pins:?}"))
        })
    })?;
    for _ in 0..2 {
        let names: Vec<String> = (0..n_pods).map(|n| format!("shop/pod-{n}")).collect();
        lab.add_pods_at_once(names.iter().map(|name| PodSpec::new(name, &[], &[])).collect())?;
        let status = lab.status()?;
        let ready = status.endpoints.iter().filter(|e| e.protection == Protection::Ready);
        let interfaces: BTreeSet<u32> = ready.map(|endpoint| endpoint.ifindex).collect();
        ensure!(
            interfaces.len() == n_pods,
            "{} of {n_pods}: {:?}",
            interfaces.len(),
            status.endpoints
        );
        let map_state = maps(&lab)?.map_state()?;
        ensure!(
            map_state.endpoints.values().all(|endpoint| endpoint.value.isolated == 3),
            "{map_state:?}"
        );
        lab.delete_pods_at_once(&names)?;
        ensure!(lab.status()?.endpoints.is_empty(), "{:?}", lab.status()?.endpoints);
        wait_for_pins(&lab, &before)?;
        let map_state = maps(&lab)?.map_state()?;
        ensure!(
            map_state.endpoints.is_empty()
                && map_state.addresses.is_empty()
                && map_state.allow.is_empty()
        );
        let records = fs::read_to_string(lab.agent_config().state.join("endpoints.json"))?;
        ensure!(records == "[]", "{records}");
    }
    let errors: Vec<_> =
        lab.agent_log()?.lines().filter(|l| l.contains("ERROR")).map(str::to_owned).collect();
    ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}

#[test]
fn a_device_that_appears_under_a_running_agent_gets_its_program_and_one_that_goes_leaves_no_pin()
-> Result<()> {
    let Some(lab) = lab("devices")? else { return Ok(()) };
    let node = lab.netns(&Host::Node)?;
    let only_eth0 = uplink_pins(node.interface_index("eth0")?);
    wait_for_pins(&lab, &only_eth0)?;
    node.configure("link add wan0 type veth peer name wan1\nlink set wan0 up\n")?;
    // The peer device is down, so no packet leaves through it.
    let mut with_new = uplink_pins(node.interface_index("wan0")?);
    with_new.extend(only_eth0.clone());
    wait_for_pins(&lab, &with_new)?;
    node.configure("link delete wan0\n")?;
    wait_for_pins(&lab, &only_eth0)
}
