//! DEL: removes everything that ADD created.
//!
//! Can be repeated, and needs neither the agent nor the network namespace nor the previous result. A step that fails does
//! not prevent the others; all failures are reported.

use netpol_proto::{Attachment, Request};

use super::{Call, host_netlink, ipam_config};
use crate::client;
use crate::config::{Delegate, Main, Mode};
use crate::error::CniError;
use crate::interface::{self, HostEnd};
use crate::subnet_file::Subnets;

/// Disconnects a pod.
pub(super) fn del(call: &Call<'_>) -> Result<(), CniError> {
    undo(call, &call.environment.attachment()?)
}

/// [`del`], also for an ADD that failed halfway.
///
/// The interface is removed first and the address last, so that no interface exists without enforcement, and no
/// address is free for another pod while this pod's rules are still in force.
pub(super) fn undo(call: &Call<'_>, attachment: &Attachment) -> Result<(), CniError> {
    let mut errors = Vec::new();
    let mut collect = |outcome: Result<(), CniError>| errors.extend(outcome.err());
    match &call.config.mode {
        Mode::Chained => collect(forget(call, attachment)),
        Mode::Main(main) => {
            collect(remove_interface(call, attachment));
            collect(forget(call, attachment));
            collect(release(call, main));
        }
        Mode::Delegate(Delegate { plugin_type, config }) => {
            collect(call.plugin(plugin_type, config).del().map_err(CniError::from));
            collect(forget(call, attachment));
        }
    }
    CniError::collect(errors).map_or(Ok(()), Err)
}

fn remove_interface(call: &Call<'_>, attachment: &Attachment) -> Result<(), CniError> {
    let end = HostEnd::of(&call.config.network, attachment);
    Ok(interface::remove(&mut host_netlink()?, &end)?)
}

/// Reports the removal to the agent. An agent that does not run finds the removed interface when it starts.
fn forget(call: &Call<'_>, attachment: &Attachment) -> Result<(), CniError> {
    match client::ask(&call.config.agent_socket, &Request::Del(attachment.clone())) {
        Err(error) if !error.is_absence() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Returns the address to IPAM.
fn release(call: &Call<'_>, main: &Main) -> Result<(), CniError> {
    let subnets = main.subnet_file.as_deref().map(Subnets::read);
    // After a reboot flanneld's file is gone, but IPAM's addresses on disk are not.
    let subnets =
        subnets.map(|subnets| subnets.unwrap_or_else(|_unreadable| Subnets::placeholder()));
    Ok(call.plugin(&main.ipam_type, &ipam_config(call, main, subnets.as_ref())).del()?)
}
