//! Whether the programs of this process are attached, as the kernel reports it.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::programs::SchedClassifier;
use netpol_common::ids::IfIndex;
use netpol_netlink::TrafficControl;
use netpol_policy::dataplane::port::Presence;

use super::filter::POSITION;
use super::role::Role;
use super::site::{Device, Site};
use crate::error::Error;
use crate::object::Pins;
use crate::program::Program;

/// One look at many devices, with one netlink socket for all of them.
pub(super) struct Look<'a> {
    ebpf: &'a Ebpf,
    pins: &'a Pins,
    /// The kernel's ids of the programs, as far as they were needed.
    own: BTreeMap<Program, u32>,
    traffic_control: Option<TrafficControl>,
}

impl<'a> Look<'a> {
    pub(super) fn new(ebpf: &'a Ebpf, pins: &'a Pins) -> Self {
        Self { ebpf, pins, own: BTreeMap::new(), traffic_control: None }
    }

    /// Whether the programs of a role are attached to a device.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Attach`], [`Error::Filter`].
    pub(super) fn at(&mut self, ifindex: IfIndex, role: Role) -> Result<Presence, Error> {
        let Ok(device) = Device::find(ifindex) else { return Ok(Presence::NoDevice) };
        let mut presence = Presence::Links;
        for program in role_of_uplink(self.pins, ifindex, role).programs() {
            let site = Site { pins: self.pins, device: &device, program: *program };
            let own = self.own(&site)?;
            let is_filter = self.pins.is_filter(ifindex, *program);
            let found = if is_filter { self.has_filter(&site, own) } else { has_link(&site, own) };
            match found {
                Ok(true) if is_filter => presence = Presence::Filters,
                Ok(true) => {}
                // A device that is removed or renamed meanwhile is not found by its name.
                Ok(false) | Err(_) if Device::find(ifindex).is_err() => {
                    return Ok(Presence::NoDevice);
                }
                Ok(false) => return Ok(Presence::Missing),
                Err(error) => return Err(error),
            }
        }
        Ok(presence)
    }

    /// The kernel's id of the program of this process.
    fn own(&mut self, site: &Site<'_>) -> Result<u32, Error> {
        if let Some(id) = self.own.get(&site.program) {
            return Ok(*id);
        }
        let name = site.program.name();
        let program = self.ebpf.program(name).ok_or(Error::Missing { name })?;
        let id = program.info().map_err(|error| site.error(error))?.id();
        self.own.insert(site.program, id);
        Ok(id)
    }

    fn has_filter(&mut self, site: &Site<'_>, own: u32) -> Result<bool, Error> {
        let kernel = match &mut self.traffic_control {
            Some(kernel) => kernel,
            none => none.insert(site.traffic_control()?),
        };
        let found = kernel
            .filter(site.device.ifindex, site.program.side(), POSITION)
            .map_err(|error| site.filter_error(error))?;
        Ok(found.and_then(|filter| filter.program_id) == Some(own))
    }
}

fn has_link(site: &Site<'_>, own: u32) -> Result<bool, Error> {
    let found = SchedClassifier::query_tcx(&site.device.name, site.program.attach_type());
    let (_, programs) = found.map_err(|error| site.error(error))?;
    Ok(programs.iter().any(|found| found.id() == own))
}

/// The interface of a removed pod keeps the programs of a pod, because without an endpoint they drop everything.
pub(super) fn role_of_uplink(pins: &Pins, ifindex: IfIndex, role: Role) -> Role {
    if pins.link(ifindex, Program::PodIngress).exists() { Role::Pod } else { role }
}
