//! The eBPF programs as an engine of simulations.

use std::collections::BTreeMap;

use netpol_common::ids::Hook;
use netpol_common::maps::{BACKENDS, COUNTERS, FLOWS, FRAGMENTS};
use netpol_common::verdict::HookContext;
use netpol_policy::dataplane::MapOp;
use netpol_policy::dataplane::port::Maps as _;
use netpol_policy::simulate::{self, DatapathError, Engine, FIRST_INTERFACE, Judged};

use crate::config::Config;
use crate::datapath::Datapath;
use crate::netlink::PretendDevices;
use crate::object::TestContext;
use crate::program::Program;

/// A private copy of the programs and maps, and the devices that the frames name.
struct Kernel {
    datapath: Datapath,
    devices: PretendDevices,
}

/// A private copy of the programs and maps, run by `BPF_PROG_TEST_RUN`. Needs root.
///
/// Moves this thread into a network namespace of its own for the rest of its life. Use the engine only on this thread,
/// because the kernel looks up the devices of test packets in the namespace of the calling thread.
///
/// # Errors
/// The programs cannot be loaded, or the devices cannot be created.
pub fn engine() -> Result<Engine, DatapathError> {
    // Small maps, because all entries of connections are read and removed after each probe.
    let capacities =
        BTreeMap::from([(FLOWS, 32), (BACKENDS, 256), (FRAGMENTS, 64), (COUNTERS, 1024)]);
    let datapath = Datapath::load(&Config { capacities, ..Config::private() }).map_err(failed)?;
    let devices = PretendDevices::in_new_namespace(FIRST_INTERFACE).map_err(failed)?;
    Ok(Engine::Datapath(Box::new(Kernel { datapath, devices })))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> DatapathError {
    DatapathError(Box::new(error))
}

impl simulate::Datapath for Kernel {
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), DatapathError> {
        for op in ops {
            if let MapOp::SetEndpoint(ifindex, _) = op {
                self.devices.ensure(*ifindex).map_err(failed)?;
            }
        }
        self.datapath.apply(ops).map_err(failed)
    }

    fn judge(&mut self, frame: &[u8], hook: &HookContext) -> Result<Judged, DatapathError> {
        let program = match hook.hook {
            Hook::PodEgress => Program::PodEgress,
            Hook::PodIngress => Program::PodIngress,
            Hook::UplinkEgress => Program::UplinkEgress,
            Hook::UplinkIngress => Program::UplinkIngress,
        };
        let context = TestContext {
            ifindex: hook.ifindex.0,
            ingress_ifindex: hook.ingress_ifindex,
            mark: hook.mark,
        };
        let outcome = self.datapath.test_run(program, frame, context).map_err(failed)?;
        Ok(Judged { passes: outcome.is_pass(), mark: outcome.mark, flow_handle: 0 })
    }

    fn forget_flows(&mut self) -> Result<(), DatapathError> {
        self.datapath.forget_flows().map_err(failed)
    }
}
