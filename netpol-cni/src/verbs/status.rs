//! STATUS: checks that an ADD could be served now.

use netpol_proto::{ErrorCode, Request};

use super::{Call, ipam_config};
use crate::client;
use crate::config::{Delegate, Mode};
use crate::environment::Verb;
use crate::error::CniError;
use crate::subnet_file::Subnets;

/// Asks the agent and the other plugins.
///
/// A missing agent is only [`ErrorCode::NOT_AVAILABLE`], because the pinned programs still enforce the policies of running
/// pods.
pub(super) fn status(call: &Call<'_>) -> Result<(), CniError> {
    if let Err(error) = client::ask(&call.config.agent_socket, &Request::Status) {
        let absent = error.is_absence();
        let error = CniError::from(error);
        return Err(if absent { not_available(error) } else { error });
    }
    match &call.config.mode {
        Mode::Chained => Ok(()),
        Mode::Main(main) => {
            let subnets = main.subnet_file.as_deref().map(Subnets::read).transpose();
            let subnets = subnets.map_err(|error| not_available(error.into()))?;
            let config = ipam_config(call, main, subnets.as_ref());
            Ok(call.plugin(&main.ipam_type, &config).call_if_known(Verb::Status)?)
        }
        Mode::Delegate(Delegate { plugin_type, config }) => {
            Ok(call.plugin(plugin_type, config).call_if_known(Verb::Status)?)
        }
    }
}

fn not_available(error: CniError) -> CniError {
    CniError { code: ErrorCode::NOT_AVAILABLE, ..error }
}
