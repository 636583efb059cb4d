//! CHECK: compares the interface with the result of ADD.

use netpol_proto::{Check, ErrorCode, Request};

use super::{Call, host_netlink, ipam_config};
use crate::client;
use crate::config::{self, Delegate, Mode};
use crate::environment::Verb;
use crate::error::CniError;
use crate::interface::{self, HostEnd};
use crate::netns::Netns;
use crate::result::{CniResult, Interface};
use crate::subnet_file::Subnets;
use crate::veth;

/// Checks the interface, calls the other plugins, and asks the agent whether the policy is in force.
pub(super) fn check(call: &Call<'_>) -> Result<(), CniError> {
    let attachment = call.environment.attachment()?;
    let netns = Netns::open(&call.environment.required_netns()?)?;
    let previous = call.config.prev_result.as_ref().ok_or(config::Error::Missing {
        field: "prevResult",
        reason: "CHECK compares the interface with it",
    })?;
    let previous = CniResult::from_value("prevResult", previous)?;
    let ifname = &attachment.container_ifname;
    let mut host = host_netlink()?;
    let link = match &call.config.mode {
        Mode::Chained => veth::host_side(&mut host, &netns, ifname, &previous)?,
        Mode::Main(main) => {
            let end = HostEnd::of(&call.config.network, &attachment);
            let link = interface::check(&mut host, &netns, &end, ifname, &previous)?;
            let subnets = main.subnet_file.as_deref().map(Subnets::read).transpose()?;
            let config = ipam_config(call, main, subnets.as_ref());
            call.plugin(&main.ipam_type, &config).call_if_known(Verb::Check)?;
            link
        }
        Mode::Delegate(Delegate { plugin_type, config }) => {
            call.plugin(plugin_type, config).call_if_known(Verb::Check)?;
            veth::host_side(&mut host, &netns, ifname, &previous)?
        }
    };
    if previous.interfaces.iter().any(Interface::is_in_container)
        && !previous.interfaces.iter().any(|interface| interface.name == *ifname)
    {
        let msg = format!("prevResult does not name interface {ifname}");
        return Err(CniError::new(ErrorCode::CHECK_FAILED, msg));
    }
    let request = Request::Check(Check { attachment, host_ifindex: link.index.0 });
    Ok(client::ask(&call.config.agent_socket, &request)?)
}
