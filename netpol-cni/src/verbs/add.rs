//! ADD: the interface exists, then its policy is in force, then the runtime gets its answer.
//!
//! Whatever goes wrong, what this call made is undone: a pod is never left connected and unprotected.

use std::net::IpAddr;

use netpol_netlink::{Link, Netlink};
use netpol_proto::{Add, Attachment, PodRef, Request};
use serde_json::{Map, Value};

use super::{Call, del, host_netlink, ipam_config};
use crate::client;
use crate::config::{self, Delegate, Main, Mode};
use crate::error::CniError;
use crate::interface::{self, HostEnd};
use crate::netns::Netns;
use crate::result::CniResult;
use crate::subnet_file::Subnets;
use crate::veth;

/// What an ADD knows besides its configuration.
struct Target {
    attachment: Attachment,
    pod: PodRef,
    netns: Netns,
}

/// Connects a pod and returns the result for the runtime.
pub(super) fn add(call: &Call<'_>) -> Result<CniResult, CniError> {
    let environment = call.environment;
    let attachment = environment.attachment()?;
    let netns = Netns::open(&environment.required_netns()?)?;
    if !environment.allows_own_netns() {
        netns.refuse_own()?;
    }
    let target = Target { attachment, pod: environment.pod()?, netns };
    let result = match &call.config.mode {
        Mode::Chained => chained(call, &target)?,
        Mode::Main(main) => {
            let inside = refuse_second(call, &target)?;
            undo_on_error(call, &target, make(call, &target, main, inside))?
        }
        Mode::Delegate(delegate) => {
            refuse_second(call, &target)?;
            undo_on_error(call, &target, delegated(call, &target, delegate))?
        }
    };
    Ok(result.convert(call.config.version))
}

fn chained(call: &Call<'_>, target: &Target) -> Result<CniResult, CniError> {
    let previous = call.config.prev_result.as_ref().ok_or(config::Error::Missing {
        field: "prevResult",
        reason: "without `ipam`, `subnetFile` or `delegate` netpol-cni must stand behind another plugin",
    })?;
    let previous = CniResult::from_value("prevResult", previous)?;
    enforce_found(call, target, &previous)?;
    Ok(previous)
}

fn delegated(call: &Call<'_>, target: &Target, delegate: &Delegate) -> Result<CniResult, CniError> {
    let Delegate { plugin_type, config } = delegate;
    let result = call.plugin(plugin_type, config).add()?;
    enforce_found(call, target, &result)?;
    Ok(result)
}

/// What waits for others is done side by side: IPAM is another process, and the agent does not care what is in the container.
fn make(
    call: &Call<'_>,
    target: &Target,
    main: &Main,
    inside: Netlink,
) -> Result<CniResult, CniError> {
    let subnets = main.subnet_file.as_deref().map(Subnets::read).transpose()?;
    let mtu = main.mtu.or(subnets.as_ref().and_then(|subnets| subnets.mtu));
    let ifname = &target.attachment.container_ifname;
    let end = HostEnd::of(&call.config.network, &target.attachment);
    let mut host = host_netlink()?;
    let ipam_config = ipam_config(call, main, subnets.as_ref());
    let (pair, ipam) = side_by_side(
        || interface::create(&mut host, inside, &target.netns, &end, (ifname, mtu)),
        || call.plugin(&main.ipam_type, &ipam_config).add(),
    );
    let (mut pair, ipam) = (pair?, ipam?);
    let addresses = interface::addresses(&ipam)?;
    let host_end = pair.host.clone();
    let (result, enforced) = side_by_side(
        || interface::configure_container(&mut pair, &target.netns, ipam),
        || enforce(call, target, &host_end, addresses.clone()),
    );
    let mut result = result?;
    enforced?;
    if let Some(dns) = call.config.raw.get("dns")
        // host-local always has `dns`, mostly with nothing in it.
        && result.other.get("dns").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        result.other.insert("dns".into(), dns.clone());
    }
    interface::connect_host(&mut host, &pair, &addresses)?;
    Ok(result)
}

/// Does the second on a thread of its own while the first is done here.
fn side_by_side<A, B: Send>(
    first: impl FnOnce() -> A,
    second: impl FnOnce() -> B + Send,
) -> (A, B) {
    std::thread::scope(|scope| {
        let second = scope.spawn(second);
        let first = first();
        (first, second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Finds the host side of an interface that another plugin made, and has it enforced.
fn enforce_found(call: &Call<'_>, target: &Target, result: &CniResult) -> Result<(), CniError> {
    let ifname = &target.attachment.container_ifname;
    let host = veth::host_side(&mut host_netlink()?, &target.netns, ifname, result)?;
    enforce(call, target, &host, result.addresses_of(ifname))
}

/// Has the agent put the pod's policy in force on `host`. Returns once it is.
fn enforce(
    call: &Call<'_>,
    target: &Target,
    host: &Link,
    addresses: Vec<IpAddr>,
) -> Result<(), CniError> {
    let Target { attachment, pod, netns } = target;
    let request = Request::Add(Add {
        attachment: attachment.clone(),
        network: call.config.network.clone(),
        netns: netns.path().display().to_string(),
        host_ifname: host.name.clone(),
        host_ifindex: host.index.0,
        pod: pod.clone(),
        addresses,
        is_unshaped: call.config.is_unshaped,
    });
    Ok(client::ask(&call.config.agent_socket, &request)?)
}

/// Whoever makes the interface is the first plugin of its list and the first call for its container. Told before
/// there is anything to undo: a mistaken second ADD must not take down what the first has made.
fn refuse_second(call: &Call<'_>, target: &Target) -> Result<Netlink, CniError> {
    if call.config.prev_result.is_some() {
        let reason = "the plugin that makes the interface is the first of its list";
        return Err(config::Error::Conflict { field: "prevResult", reason }.into());
    }
    Ok(interface::refuse_existing(&target.netns, &target.attachment.container_ifname)?)
}

/// Takes back what an ADD has made before it failed. What cannot be taken back is told in the details.
fn undo_on_error(
    call: &Call<'_>,
    target: &Target,
    outcome: Result<CniResult, CniError>,
) -> Result<CniResult, CniError> {
    outcome.map_err(|error| match del::undo(call, &target.attachment) {
        Ok(()) => error,
        Err(undo) => error.with_details(&format!("undoing it failed: {}", undo.to_line())),
    })
}
