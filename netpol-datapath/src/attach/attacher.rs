//! Attaching the programs of a role to a device: a TCX link or a clsact filter.

use aya::Ebpf;
use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::NewInterface;

use super::role::Role;
use super::site::{Device, Site, detach};
use crate::config::Attaching;
use crate::error::Error;
use crate::object::{Pins, classifier};

/// The programs without the maps, so that another thread can write the maps at the same time.
pub(super) struct Attacher<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    /// `None` for a private copy.
    pub(super) pins: Option<&'a Pins>,
    pub(super) attaching: Attaching,
}

impl Attacher<'_> {
    /// See [`Datapath::attach`](crate::Datapath::attach).
    ///
    /// # Errors
    /// Those of [`Datapath::attach`](crate::Datapath::attach).
    pub(super) fn attach(&mut self, ifindex: IfIndex, role: Role) -> Result<(), Error> {
        self.attach_or_replace(ifindex, role, |_site| Ok(false))
    }

    /// See [`Datapath::attach_new`](crate::Datapath::attach_new).
    ///
    /// # Errors
    /// Those of [`Datapath::attach`](crate::Datapath::attach).
    pub(super) fn attach_new(&mut self, new: NewInterface) -> Result<(), Error> {
        let NewInterface { ifindex, is_unshaped } = new;
        let mut is_claimed = if is_unshaped { None } else { Some(false) };
        self.attach_or_replace(ifindex, Role::Pod, |site| {
            let found = is_claimed.map_or_else(|| site.claim_clsact(), Ok)?;
            is_claimed = Some(found);
            Ok(found)
        })
    }

    /// Where TCX links are in use and no program is attached yet, `wants_filter` chooses a clsact filter instead.
    fn attach_or_replace(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        mut wants_filter: impl FnMut(&Site<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let pins = self.pins.ok_or(Error::NotPinned)?;
        let device = Device::find(ifindex)?;
        // In sequence: the kernel holds the RTNL lock while it waits for packets in flight.
        for program in role.programs() {
            let classifier = classifier(self.ebpf, *program)?;
            let site = Site { pins, device: &device, program: *program };
            if site.replace(classifier)? {
                continue;
            }
            let is_filter = match self.attaching {
                Attaching::Links => wants_filter(&site)?,
                Attaching::Filters => site.ensure_clsact().map(|()| true)?,
            };
            if is_filter { site.attach_filter(classifier)? } else { site.attach_link(classifier)? }
        }
        if role == Role::Pod {
            // The device was attached as an uplink before it became known as a pod's.
            for program in [Role::Uplink, Role::UplinkL3].into_iter().flat_map(Role::programs) {
                let program = *program;
                if pins.link(ifindex, program).exists() {
                    detach(pins, ifindex, program)?;
                }
            }
        }
        Ok(())
    }
}
