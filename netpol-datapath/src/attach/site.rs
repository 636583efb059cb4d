//! One program on one device, attached by a TCX link (`link`) or a clsact filter (`filter`).
//!
//! A link is pinned. A filter stays without a pin: an empty folder stands for it, made before the filter and removed
//! after it.

use std::io;

use aya::programs::SchedClassifier;
use aya::programs::links::PinnedLink;
use aya::programs::{ProgramError, TcAttachType};
use netpol_common::ids::IfIndex;
use netpol_netlink::{Side, TrafficControl, device_name};

use super::filter::is_own_filter;
use crate::error::Error;
use crate::object::{Pins, has_tcx};
use crate::program::Program;

impl Program {
    /// Egress of the host's end of a veth pair is ingress of the pod.
    pub(super) const fn attach_type(self) -> TcAttachType {
        match self.side() {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        }
    }

    /// The side of the device that the program is attached to.
    pub(super) const fn side(self) -> Side {
        match self {
            Self::PodEgress | Self::UplinkIngress | Self::UplinkIngressL3 => Side::Ingress,
            Self::PodIngress | Self::UplinkEgress | Self::UplinkEgressL3 => Side::Egress,
        }
    }
}

/// A network device of this namespace.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) ifindex: IfIndex,
    pub(super) name: String,
}

impl Device {
    /// Looks a device up by its index.
    ///
    /// # Errors
    /// [`Error::NoDevice`].
    pub(super) fn find(ifindex: IfIndex) -> Result<Self, Error> {
        let name = device_name(ifindex).map_err(|_missing| Error::NoDevice { ifindex })?;
        Ok(Self { ifindex, name })
    }
}

/// One program on one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub(super) pins: &'a Pins,
    pub(super) device: &'a Device,
    pub(super) program: Program,
}

impl Site<'_> {
    /// A failure to attach.
    pub(super) fn error(&self, source: ProgramError) -> Error {
        Error::Attach { program: self.program.name(), ifindex: self.device.ifindex, source }
    }

    /// A failure to use the filter.
    pub(super) fn filter_error(&self, source: io::Error) -> Error {
        Error::Filter { program: self.program.name(), ifindex: self.device.ifindex, source }
    }

    /// A netlink socket for filters.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn traffic_control(&self) -> Result<TrafficControl, Error> {
        TrafficControl::open().map_err(|error| self.filter_error(error))
    }

    /// Replaces the attached program by this one, in one step, also if the attachment is another version's. False if
    /// nothing is attached.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Link`], [`Error::Filter`], [`Error::Pin`].
    pub(super) fn replace(&self, classifier: &mut SchedClassifier) -> Result<bool, Error> {
        let (ifindex, program) = (self.device.ifindex, self.program);
        self.finish_migration(self.pins)?;
        if self.replace_link(classifier, self.pins)? {
            return Ok(true);
        }
        for predecessor in self.pins.predecessors() {
            self.finish_migration(predecessor)?;
            if self.replace_link(classifier, predecessor)? {
                self.pins.take_over(predecessor, ifindex, program)?;
                return Ok(true);
            }
        }
        if !self.has_filter() {
            return Ok(false);
        }
        self.ensure_clsact()?;
        self.attach_filter(classifier)?;
        Ok(true)
    }

    /// Creates the link that replaces a filter, with a program that ends the program chain, so that the filter does not run
    /// any more. The link's pin is marked as a migration.
    ///
    /// # Errors
    /// Those of [`Site::attach_link`].
    pub(super) fn begin_migration(&self, last: &mut SchedClassifier) -> Result<(), Error> {
        self.link_to(last, &self.pins.migration(self.device.ifindex, self.program))
    }

    /// Removes the filter that a link replaces, if there is one, and gives that link the regular pin. Until its program
    /// is replaced, no program after it runs.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Pin`].
    pub(super) fn finish_migration(&self, pins: &Pins) -> Result<(), Error> {
        let (ifindex, program) = (self.device.ifindex, self.program);
        if !pins.migration(ifindex, program).exists() {
            return Ok(());
        }
        self.remove_filter()?;
        pins.unmark_filter(ifindex, program)?;
        pins.rename_migrated(ifindex, program)
    }

    /// The names of other programs than ours on this side of the device. While ours is migrated it is there twice.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Attach`].
    pub(super) fn foreign(&self) -> Result<Vec<String>, Error> {
        let links = match SchedClassifier::query_tcx(&self.device.name, self.program.attach_type())
        {
            Ok((_, links)) => links,
            // Before Linux 6.6 there are none.
            Err(_) if !has_tcx() => Vec::new(),
            Err(error) => return Err(self.error(error)),
        };
        // The variant that ends the chain has a longer name, of which the kernel keeps the first 15 bytes.
        let is_ours = |name: &str| name.starts_with(self.program.name());
        let links = links.iter().map(|link| link.name_as_str().unwrap_or_default());
        let of_links = links.filter(|name| !is_ours(name)).map(str::to_owned);
        // A filter of ours beside a link is one of an earlier agent whose pins are lost: it has maps of its own.
        let is_filter = self.pins.is_filter(self.device.ifindex, self.program);
        let filters = self.filters()?;
        let foreign = filters.into_iter().filter(|filter| !(is_filter && is_own_filter(filter)));
        let of_filters = foreign.map(|filter| filter.name.unwrap_or_default());
        Ok(of_links.chain(of_filters).collect())
    }

    /// Whether programs of others are attached to this side of the device.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Attach`].
    pub(super) fn is_shared(&self) -> Result<bool, Error> {
        if self.has_foreign_filter()? {
            return Ok(true);
        }
        let found = SchedClassifier::query_tcx(&self.device.name, self.program.attach_type());
        let (_, programs) = found.map_err(|error| self.error(error))?;
        Ok(!programs.is_empty())
    }
}

/// Detaches a program. Succeeds also after its device is gone.
///
/// # Errors
/// [`Error::Pin`], [`Error::Filter`].
pub(super) fn detach(pins: &Pins, ifindex: IfIndex, program: Program) -> Result<(), Error> {
    if pins.is_filter(ifindex, program)
        && let Ok(device) = Device::find(ifindex)
    {
        Site { pins, device: &device, program }.remove_filter()?;
    }
    // Kept open until the pins are removed, because closing the last descriptor of a link detaches synchronously.
    let links = [pins.link(ifindex, program), pins.migration(ifindex, program)];
    let links = links.map(PinnedLink::from_pin);
    pins.remove_link(ifindex, program)?;
    drop(links);
    Ok(())
}

/// Removes the queueing discipline that holds our filters, if it holds no others.
///
/// # Errors
/// [`Error::Filter`].
pub(super) fn remove_own_clsact(pins: &Pins, ifindex: IfIndex) -> Result<(), Error> {
    let Ok(device) = Device::find(ifindex) else { return Ok(()) };
    let sites = [Program::PodIngress, Program::PodEgress].map(|program| Site {
        pins,
        device: &device,
        program,
    });
    for site in &sites {
        if !site.has_filter() || site.has_foreign_filter()? {
            return Ok(());
        }
    }
    let [site, _] = sites;
    let removed = site.traffic_control()?.remove_clsact(ifindex);
    let is_gone = || Device::find(ifindex).is_err();
    removed.or_else(|error| if is_gone() { Ok(()) } else { Err(site.filter_error(error)) })
}

/// The kernel's id of the program of our filter, if there is one.
pub(super) fn program_of_filter(pins: &Pins, ifindex: IfIndex, program: Program) -> Option<u32> {
    let device = Device::find(ifindex).ok()?;
    Site { pins, device: &device, program }.program_of_filter().ok()?
}
