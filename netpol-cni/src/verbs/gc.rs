//! GC: removes the resources that belong to no valid attachment of the network.

use netpol_proto::{Gc, Request};

use super::{Call, host_netlink, ipam_config};
use crate::client;
use crate::config::{Delegate, Mode};
use crate::environment::Verb;
use crate::error::CniError;
use crate::interface;
use crate::subnet_file::Subnets;

/// Removes interfaces, calls GC of the other plugins, and reports the valid attachments to the agent. A step that fails does
/// not prevent the others.
pub(super) fn gc(call: &Call<'_>) -> Result<(), CniError> {
    let valid_attachments = call.config.valid_attachments()?;
    let network = &call.config.network;
    let mut errors: Vec<CniError> = Vec::new();
    match &call.config.mode {
        Mode::Chained => {}
        Mode::Main(main) => {
            match host_netlink() {
                Ok(mut host) => {
                    if let Err(failed) =
                        interface::remove_others(&mut host, network, &valid_attachments)
                    {
                        errors.extend(failed.into_iter().map(CniError::from));
                    }
                }
                Err(error) => errors.push(error),
            }
            let subnets = main.subnet_file.as_deref().map(Subnets::read);
            let subnets = subnets.map(|subnets| subnets.unwrap_or_else(|_| Subnets::placeholder()));
            let config = ipam_config(call, main, subnets.as_ref());
            errors.extend(
                call.plugin(&main.ipam_type, &config)
                    .call_if_known(Verb::Gc)
                    .err()
                    .map(CniError::from),
            );
        }
        Mode::Delegate(Delegate { plugin_type, config }) => {
            errors.extend(
                call.plugin(plugin_type, config).call_if_known(Verb::Gc).err().map(CniError::from),
            );
        }
    }
    let request = Request::Gc(Gc { network: network.clone(), valid_attachments });
    if let Err(error) = client::ask(&call.config.agent_socket, &request)
        && !error.is_absence()
    {
        errors.push(error.into());
    }
    CniError::collect(errors).map_or(Ok(()), Err)
}
