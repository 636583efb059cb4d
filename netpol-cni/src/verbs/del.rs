//! DEL: remove all that ADD made, whatever is left of it.
//!
//! Works twice, without the agent, the network namespace and the previous result. One step that fails does
//! not keep the others from being done; all failures are reported.

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

/// The same, for an ADD that failed halfway.
///
/// The interface goes first and the address last: at no moment is there an interface without enforcement, nor an
/// address that is free for another pod while this one's rules still stand.
pub(super) fn undo(call: &Call<'_>, attachment: &Attachment) -> Result<(), CniError> {
    let mut errors = Vec::new();
    let mut note = |outcome: Result<(), CniError>| errors.extend(outcome.err());
    match &call.config.mode {
        Mode::Chained => note(forget(call, attachment)),
        Mode::Main(main) => {
            note(remove_interface(call, attachment));
            note(forget(call, attachment));
            note(release(call, main));
        }
        Mode::Delegate(Delegate { plugin_type, config }) => {
            note(call.plugin(plugin_type, config).del().map_err(CniError::from));
            note(forget(call, attachment));
        }
    }
    CniError::collect(errors).map_or(Ok(()), Err)
}

fn remove_interface(call: &Call<'_>, attachment: &Attachment) -> Result<(), CniError> {
    let end = HostEnd::of(&call.config.network, attachment);
    Ok(interface::remove(&mut host_netlink()?, &end)?)
}

/// Tells the agent. One that is not there will see by itself that the interface is gone.
fn forget(call: &Call<'_>, attachment: &Attachment) -> Result<(), CniError> {
    match client::ask(&call.config.agent_socket, &Request::Del(attachment.clone())) {
        Err(error) if !error.is_absence() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Gives the address back.
fn release(call: &Call<'_>, main: &Main) -> Result<(), CniError> {
    let subnets = main.subnet_file.as_deref().map(Subnets::read);
    // flanneld's file does not survive a reboot, addresses on disk do.
    let subnets =
        subnets.map(|subnets| subnets.unwrap_or_else(|_unreadable| Subnets::placeholder()));
    Ok(call.plugin(&main.ipam_type, &ipam_config(call, main, subnets.as_ref())).del()?)
}
