//! Attaching programs to devices, so that they stay when the agent ends.
//!
//! On kernels with TCX a program hangs on a link, which is pinned and taken over by replacing its program in place. A new link
//! waits for packets under way, in the kernel's lock on all devices. So the programs of a new pod hang on netlink filters at
//! first, as all do on older kernels, and are exchanged for links later (`migration`).

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::programs::SchedClassifier;
use aya::programs::links::PinnedLink;
use aya::util::KernelVersion;
use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::NewInterface;

use super::error::Error;
use super::load::classifier;
use super::pins::Pins;
use super::site::{Device, Site};
use super::{Datapath, Program};

/// How programs are attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attaching {
    /// By TCX links, since Linux 6.6.
    Links,
    /// By filters of a `clsact` queueing discipline.
    Filters,
}

impl Attaching {
    /// The best that this kernel knows.
    pub fn of_this_kernel() -> Self {
        if KernelVersion::current().is_ok_and(|found| found >= KernelVersion::new(6, 6, 0)) {
            Self::Links
        } else {
            Self::Filters
        }
    }
}

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The host's end of a pod's interface.
    Pod,
    /// Packets leave the node through it, behind an Ethernet header.
    Uplink,
    /// The same without an Ethernet header.
    UplinkL3,
}

impl Role {
    const fn programs(self) -> &'static [Program] {
        match self {
            Self::Pod => &[Program::PodIngress, Program::PodEgress],
            Self::Uplink => &[Program::UplinkEgress],
            Self::UplinkL3 => &[Program::UplinkEgressL3],
        }
    }

    pub(super) const fn of(program: Program) -> Self {
        match program {
            Program::PodIngress | Program::PodEgress => Self::Pod,
            Program::UplinkEgress => Self::Uplink,
            Program::UplinkEgressL3 => Self::UplinkL3,
        }
    }
}

/// What is needed to attach: the programs without the maps, which others may write meanwhile.
pub(super) struct Attacher<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    /// `None` for a private copy.
    pub(super) pins: Option<&'a Pins>,
    pub(super) attaching: Attaching,
}

impl Attacher<'_> {
    /// See [`Datapath::attach`].
    ///
    /// # Errors
    /// Those of [`Datapath::attach`].
    pub(super) fn attach(&mut self, ifindex: IfIndex, role: Role) -> Result<(), Error> {
        self.hang(ifindex, role, |_site| Ok(false))
    }

    /// See [`Datapath::attach_new`].
    ///
    /// # Errors
    /// Those of [`Datapath::attach`].
    pub(super) fn attach_new(&mut self, new: NewInterface) -> Result<(), Error> {
        let NewInterface { ifindex, is_unshaped } = new;
        let mut is_free = if is_unshaped { None } else { Some(false) };
        self.hang(ifindex, Role::Pod, |site| {
            let found = is_free.map_or_else(|| site.evict_for(), Ok)?;
            is_free = Some(found);
            Ok(found)
        })
    }

    /// Where links are known and nothing hangs yet, `wants_filter` says whether it is to be a filter all the same.
    fn hang(
        &mut self,
        ifindex: IfIndex,
        role: Role,
        mut wants_filter: impl FnMut(&Site<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let pins = self.pins.ok_or(Error::NotPinned)?;
        let device = Device::find(ifindex)?;
        // One after the other: the kernel holds its lock on all devices while it waits for packets under way.
        for program in role.programs() {
            let classifier = classifier(self.ebpf, *program)?;
            let site = Site { pins, device: &device, program: *program };
            if site.renew(classifier)? {
                continue;
            }
            let is_filter = match self.attaching {
                Attaching::Links => wants_filter(&site)?,
                Attaching::Filters => site.ensure_capacity().map(|()| true)?,
            };
            if is_filter { site.hang_filter(classifier)? } else { site.hang_link(classifier)? }
        }
        if role == Role::Pod {
            // It was an uplink as long as nobody knew whose it is.
            for program in [Program::UplinkEgress, Program::UplinkEgressL3] {
                if pins.link(ifindex, program).exists() {
                    detach(pins, ifindex, program)?;
                }
            }
        }
        Ok(())
    }
}

impl Datapath {
    /// Attaches the programs of a role to a device, or replaces in place what an agent before has attached there.
    ///
    /// A program that is replaced is in force until the new one is. A new link takes some milliseconds.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::NoDevice`], [`Error::Attach`], [`Error::Filter`],
    /// [`Error::Occupied`], [`Error::Link`], [`Error::Pin`].
    pub fn attach(&mut self, ifindex: IfIndex, role: Role) -> Result<(), Error> {
        self.attacher().attach(ifindex, role)
    }

    /// [`Datapath::attach`] for the interface of a pod that does not run yet, as fast as can be: by filters, if nobody else has
    /// any there, or will want the place for himself. The device may lose packets meanwhile. [`Datapath::begin_migration`] makes links of them.
    ///
    /// # Errors
    /// Those of [`Datapath::attach`].
    pub fn attach_new(&mut self, new: NewInterface) -> Result<(), Error> {
        self.attacher().attach_new(new)
    }

    fn attacher(&mut self) -> Attacher<'_> {
        Attacher {
            ebpf: &mut self.ebpf,
            pins: self.pins.as_ref(),
            attaching: self.config.attaching,
        }
    }

    /// Whether the programs of a pod hang on its interface: ours, and not only their pins.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::NoDevice`], [`Error::Missing`], [`Error::Attach`],
    /// [`Error::Filter`].
    pub fn is_attached(&self, ifindex: IfIndex) -> Result<bool, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let device = Device::find(ifindex)?;
        for program in Role::Pod.programs() {
            let site = Site { pins, device: &device, program: *program };
            let missing = || Error::Missing { name: program.name() };
            let own = self.ebpf.program(program.name()).ok_or_else(missing)?;
            let own = own.info().map_err(|error| site.error(error))?.id();
            let is_there = if pins.is_filter(ifindex, *program) {
                site.program_of_filter()? == Some(own)
            } else {
                let found = SchedClassifier::query_tcx(&device.name, program.attach_type());
                let (_, found) = found.map_err(|error| site.error(error))?;
                found.iter().any(|found| found.id() == own)
            };
            if !is_there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes our programs off a device; also after the device is gone, and twice.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::Pin`], [`Error::Filter`].
    pub fn detach(&mut self, ifindex: IfIndex) -> Result<(), Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        for (found, program) in pins.attachments()? {
            if found == ifindex {
                detach(pins, ifindex, program)?;
            }
        }
        Ok(())
    }

    /// The devices that have our programs, by their pins.
    ///
    /// A role counts when all its programs are there. Of devices that are gone the pins are removed, and by the next
    /// [map_gc](Self::begin_gc) what their last packets left in the maps: an interface without an endpoint still counts what it drops.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::Pin`], [`Error::Map`].
    pub fn attached(&mut self) -> Result<BTreeMap<IfIndex, Role>, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let mut programs: BTreeMap<IfIndex, BTreeSet<Program>> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (ifindex, program) in pins.attachments()? {
            if Device::find(ifindex).is_ok() {
                programs.entry(ifindex).or_default().insert(program);
            } else {
                pins.remove_link(ifindex, program)?;
                gone.insert(ifindex);
            }
        }
        self.maps.leftovers.extend(gone);
        let roles = programs.into_iter().filter_map(|(ifindex, programs)| {
            let role = Role::of(*programs.first()?);
            let is_complete = role.programs().iter().all(|program| programs.contains(program));
            is_complete.then_some((ifindex, role))
        });
        Ok(roles.collect())
    }
}

/// Ends an attachment, also after its device is gone.
///
/// # Errors
/// [`Error::Pin`], [`Error::Filter`].
pub(super) fn detach(pins: &Pins, ifindex: IfIndex, program: Program) -> Result<(), Error> {
    if pins.is_filter(ifindex, program)
        && let Ok(device) = Device::find(ifindex)
    {
        Site { pins, device: &device, program }.remove_filter()?;
    }
    // Held until the pins are gone: closing them then ends the attachment at once, and not some time later.
    let links = [pins.link(ifindex, program), pins.migration(ifindex, program)];
    let links = links.map(PinnedLink::from_pin);
    pins.remove_link(ifindex, program)?;
    drop(links);
    Ok(())
}

/// The number of the program of our filter, if there is one.
pub(super) fn program_of_filter(pins: &Pins, ifindex: IfIndex, program: Program) -> Option<u32> {
    let device = Device::find(ifindex).ok()?;
    Site { pins, device: &device, program }.program_of_filter().ok()?
}
