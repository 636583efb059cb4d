//! ADD: the interface exists, then its policy is in force, then the runtime gets its answer.
//!
//! On any failure everything that this call created is removed, so that no pod stays connected and unprotected.

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

/// The input of an ADD besides its configuration.
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
        reason: "without `ipam`, `subnetFile` or `delegate` netpol-cni must be chained after another plugin",
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

/// Creates and configures the interface. Steps that wait run in parallel: IPAM is another process, and the agent does not
/// depend on the configuration inside the container.
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
    let (pair, ipam) = in_parallel(
        || interface::create(&mut host, inside, &target.netns, &end, (ifname, mtu)),
        || call.plugin(&main.ipam_type, &ipam_config).add(),
    );
    let (mut pair, ipam) = (pair?, ipam?);
    let addresses = interface::addresses(&ipam)?;
    let host_end = pair.host.clone();
    let (result, enforced) = in_parallel(
        || interface::configure_container(&mut pair, &target.netns, ipam),
        || enforce(call, target, &host_end, addresses.clone()),
    );
    let mut result = result?;
    enforced?;
    if let Some(dns) = call.config.raw.get("dns")
        // host-local always returns `dns`, usually empty.
        && result.other.get("dns").and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        result.other.insert("dns".into(), dns.clone());
    }
    interface::connect_host(&mut host, &pair, &addresses)?;
    Ok(result)
}

/// Runs `second` on another thread while `first` runs on this one.
fn in_parallel<A, B: Send>(first: impl FnOnce() -> A, second: impl FnOnce() -> B + Send) -> (A, B) {
    std::thread::scope(|scope| {
        let second = scope.spawn(second);
        let first = first();
        (first, second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Finds the host's end of an interface that another plugin created, and enforces the policy on it.
fn enforce_found(call: &Call<'_>, target: &Target, result: &CniResult) -> Result<(), CniError> {
    let ifname = &target.attachment.container_ifname;
    let host = veth::host_side(&mut host_netlink()?, &target.netns, ifname, result)?;
    enforce(call, target, &host, result.addresses_of(ifname))
}

/// Asks the agent to enforce the pod's policy on `host`. Returns once it is in force.
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

/// Refuses an ADD if an earlier plugin or an earlier ADD created the interface. This check comes before the first step that
/// would be undone, because a repeated ADD must not remove the interface of the first one.
fn refuse_second(call: &Call<'_>, target: &Target) -> Result<Netlink, CniError> {
    if call.config.prev_result.is_some() {
        let reason = "the plugin that creates the interface must be the first of its list";
        return Err(config::Error::Conflict { field: "prevResult", reason }.into());
    }
    Ok(interface::refuse_existing(&target.netns, &target.attachment.container_ifname)?)
}

/// Removes everything that a failed ADD has created. The details of the error report what could not be removed.
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
