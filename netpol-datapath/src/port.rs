//! The port of the core, implemented by the kernel.

use std::collections::{BTreeMap, BTreeSet};

use netpol_common::ids::{Epoch, IfIndex};
use netpol_common::keys::{CounterKey, FlowKey, FlowValue};
use netpol_policy::dataplane::port::{
    Attachments, Exchanged, FailedAttachments, Flows, Framing, Maps, NewInterface,
};
use netpol_policy::dataplane::{Counter, Image, MapOp};

use crate::attach::Role;
use crate::exchange::Exchange;
use crate::sweep::Sweep;
use crate::{Datapath, Error};

impl Maps for Datapath {
    type Error = Error;

    fn apply(&mut self, ops: &[MapOp]) -> Result<(), Error> {
        Self::apply(self, ops)
    }

    fn image(&self) -> Result<Image, Error> {
        Self::image(self)
    }

    fn counters(&self) -> Result<BTreeMap<CounterKey, Counter>, Error> {
        Self::counters(self)
    }

    fn epoch(&self) -> Result<Epoch, Error> {
        Self::epoch(self)
    }

    fn prepare(&mut self) -> Result<(), Error> {
        Self::prepare(self)
    }
}

impl Attachments for Datapath {
    type Exchange = Exchange;

    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        Self::attach(self, ifindex, Role::Pod)
    }

    fn attach_and_apply(
        &mut self,
        interfaces: &[NewInterface],
        ops: &[MapOp],
    ) -> (FailedAttachments<Error>, Result<(), Error>) {
        Self::attach_and_apply(self, interfaces, ops)
    }

    fn is_attached(&self, ifindex: IfIndex) -> Result<bool, Error> {
        Self::is_attached(self, ifindex)
    }

    fn set_uplinks(&mut self, uplinks: &BTreeMap<IfIndex, Framing>) -> Result<(), Error> {
        let attached = self.attached()?;
        let mut result = Ok(());
        for (ifindex, framing) in uplinks {
            let role = match framing {
                Framing::Ethernet => Role::Uplink,
                Framing::L3 => Role::UplinkL3,
            };
            // The interface of a pod that is gone keeps its programs: without an endpoint they drop all.
            let is_pod = attached.get(ifindex) == Some(&Role::Pod);
            if !is_pod && attached.get(ifindex) != Some(&role) {
                result = match Self::attach(self, *ifindex, role) {
                    // It went since the devices were listed.
                    Err(Error::NoDevice { .. }) => result,
                    attached => result.and(attached),
                };
            }
        }
        result
    }

    fn on_filters(&self) -> Result<BTreeSet<IfIndex>, Error> {
        Self::on_filters(self)
    }

    fn begin_exchange(&mut self, ifindex: IfIndex) -> Result<Option<Exchange>, Error> {
        Self::begin_exchange(self, ifindex)
    }

    fn run_exchange(exchange: Exchange) -> (IfIndex, Exchange) {
        (exchange.ifindex(), exchange.run())
    }

    fn end_exchange(&mut self, exchange: Exchange) -> Result<Exchanged, Error> {
        Self::end_exchange(self, exchange)
    }

    fn has_predecessor(&self) -> bool {
        Self::has_predecessor(self)
    }

    fn retire_predecessor(&mut self) -> Result<(), Error> {
        Self::retire_predecessor(self)
    }
}

impl Flows for Datapath {
    type Sweep = Sweep;

    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowValue>, Error> {
        Self::flows(self)
    }

    fn n_evicted_flows(&self) -> Result<u64, Error> {
        Self::n_evicted_flows(self)
    }

    fn add_flows(&mut self, flows: &[(FlowKey, FlowValue)]) -> Result<(), Error> {
        Self::add_flows(self, flows)
    }

    fn n_unswept(&self) -> usize {
        Self::n_unswept(self)
    }

    fn begin_sweep(&mut self) -> Result<Option<Sweep>, Error> {
        Self::begin_sweep(self)
    }

    fn run_sweep(sweep: Sweep) -> Sweep {
        sweep.run()
    }

    fn end_sweep(&mut self, sweep: Sweep) -> Result<usize, Error> {
        Self::end_sweep(self, sweep)
    }
}
