//! Attaching programs to devices, so that they stay when the agent ends.
//!
//! On kernels with TCX a link is pinned, and taken over by replacing its program in place. Older kernels keep netlink
//! filters by themselves; there an empty folder stands for the pin.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use aya::Ebpf;
use aya::programs::links::{FdLink, Link as _, LinkError, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use netpol_common::ids::IfIndex;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};

use super::error::Error;
use super::load::classifier;
use super::pins::{Pins, pin_error};
use super::{Datapath, Program};

/// Where our netlink filters are among others: first, because one that passes a packet ends the search.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x6e70);

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

impl Program {
    /// What is egress for the host's end of a veth pair is ingress for the pod.
    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::PodEgress => TcAttachType::Ingress,
            Self::PodIngress | Self::UplinkEgress | Self::UplinkEgressL3 => TcAttachType::Egress,
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
        let pins = self.pins.ok_or(Error::NotPinned)?;
        let device = Device::find(ifindex)?;
        // One after the other: the kernel holds its lock on all devices while it waits for packets under way.
        for program in role.programs() {
            let classifier = classifier(self.ebpf, *program)?;
            let site = Site { pins, device: &device, program: *program };
            match self.attaching {
                Attaching::Links => site.attach_link(classifier)?,
                Attaching::Filters => site.attach_filter(classifier)?,
            }
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
    /// [`Error::NotPinned`] for a private copy, [`Error::NoDevice`], [`Error::Attach`], [`Error::Link`],
    /// [`Error::Pin`].
    pub fn attach(&mut self, ifindex: IfIndex, role: Role) -> Result<(), Error> {
        let Self { ebpf, maps: _, pins, attaching } = self;
        Attacher { ebpf, pins: pins.as_ref(), attaching: *attaching }.attach(ifindex, role)
    }

    /// Whether the programs of a pod hang on its interface: ours, and not only their pins.
    ///
    /// # Errors
    /// [`Error::NotPinned`] for a private copy, [`Error::NoDevice`], [`Error::Missing`], [`Error::Attach`].
    pub fn is_attached(&self, ifindex: IfIndex) -> Result<bool, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let device = Device::find(ifindex)?;
        for program in Role::Pod.programs() {
            let site = Site { pins, device: &device, program: *program };
            let is_there = match self.attaching {
                Attaching::Links => {
                    let missing = || Error::Missing { name: program.name() };
                    let own = self.ebpf.program(program.name()).ok_or_else(missing)?;
                    let own = own.info().map_err(|error| site.error(error))?.id();
                    let (_, found) =
                        SchedClassifier::query_tcx(&device.name, program.attach_type())
                            .map_err(|error| site.error(error))?;
                    found.iter().any(|found| found.id() == own)
                }
                // The filters of a device cannot be listed by this library.
                Attaching::Filters => pins.is_filter(ifindex, *program),
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
    /// [`Error::NotPinned`] for a private copy, [`Error::Pin`], [`Error::Detach`].
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
    /// A role counts when all its programs are there. Of devices that are gone the pins are removed, and what their last
    /// packets left in the maps: an interface without an endpoint still counts what it drops.
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
        if !gone.is_empty() {
            self.maps.purge(&gone)?;
        }
        let roles = programs.into_iter().filter_map(|(ifindex, programs)| {
            let role = Role::of(*programs.first()?);
            let is_complete = role.programs().iter().all(|program| programs.contains(program));
            is_complete.then_some((ifindex, role))
        });
        Ok(roles.collect())
    }
}

/// A network device of this namespace.
#[derive(Debug)]
struct Device {
    ifindex: IfIndex,
    name: String,
}

impl Device {
    fn find(ifindex: IfIndex) -> Result<Self, Error> {
        let no_device = |_| Error::NoDevice { ifindex };
        let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(no_device)?;
        let name = index_to_name(any, ifindex.0).map_err(no_device)?;
        Ok(Self { ifindex, name })
    }
}

/// One program on one device.
#[derive(Clone, Copy, Debug)]
struct Site<'a> {
    pins: &'a Pins,
    device: &'a Device,
    program: Program,
}

impl Site<'_> {
    fn error(&self, source: ProgramError) -> Error {
        Error::Attach { program: self.program.name(), ifindex: self.device.ifindex, source }
    }

    /// Replaces the program of the pinned link, or makes a link and pins it.
    fn attach_link(&self, classifier: &mut SchedClassifier) -> Result<(), Error> {
        let (ifindex, program) = (self.device.ifindex, self.program);
        if self.replace_in(classifier, self.pins)? {
            return Ok(());
        }
        for predecessor in self.pins.predecessors() {
            if !predecessor.is_filter(ifindex, program)
                && self.replace_in(classifier, predecessor)?
            {
                return self.pins.take_over(predecessor, ifindex, program);
            }
        }
        let path = self.pins.link(ifindex, program);
        let link_error = |source| Error::Link { path: path.clone(), source };
        // First of all programs: one that passes a packet keeps it from those behind.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let attached =
            classifier.attach_with_options(&self.device.name, self.program.attach_type(), order);
        let id = attached.map_err(|error| self.error(error))?;
        let link = classifier.take_link(id).map_err(|error| self.error(error))?;
        // aya attaches by name, and a name can move to another device meanwhile.
        if Device::find(self.device.ifindex)?.name != self.device.name {
            return Err(Error::NoDevice { ifindex: self.device.ifindex });
        }
        let link: FdLink = link.try_into().map_err(link_error)?;
        link.pin(&path).map_err(|error| pin_error(&path, error))?;
        Ok(())
    }

    /// Replaces the program of a link where it is pinned, in one step; false if there is no link.
    fn replace_in(&self, classifier: &mut SchedClassifier, pins: &Pins) -> Result<bool, Error> {
        let path = pins.link(self.device.ifindex, self.program);
        let link_error = |source| Error::Link { path: path.clone(), source };
        let pinned = match PinnedLink::from_pin(&path) {
            Ok(pinned) => pinned,
            Err(LinkError::SyscallError(failed))
                if failed.io_error.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(false);
            }
            Err(error) => return Err(link_error(error)),
        };
        let link = FdLink::from(pinned).try_into().map_err(link_error)?;
        match classifier.attach_to_link(link) {
            Ok(id) => {
                // Only the file descriptor is closed: the pin holds the link.
                drop(classifier.take_link(id).map_err(|error| self.error(error))?);
                Ok(true)
            }
            // Its device is gone; this one has got the same index.
            Err(error) if os_error(&error) == Some(libc::ENOLINK) => {
                pins.remove_link(self.device.ifindex, self.program)?;
                Ok(false)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Replaces the program of our filter, or makes the filter.
    fn attach_filter(&self, classifier: &mut SchedClassifier) -> Result<(), Error> {
        let name = &self.device.name;
        match tc::qdisc_add_clsact(name) {
            Err(error) if tc_os_error(&error) != Some(libc::EEXIST) => {
                return Err(self.error(error.into()));
            }
            Ok(()) | Err(_) => {}
        }
        let replaced = classifier.attach_to_link(self.filter()?);
        let attached = match replaced {
            Err(error) if os_error(&error) == Some(libc::ENOENT) => {
                let options =
                    NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
                classifier.attach_with_options(
                    name,
                    self.program.attach_type(),
                    TcAttachOptions::Netlink(options),
                )
            }
            other => other,
        };
        let id = attached.map_err(|error| self.error(error))?;
        // Dropped, it would take the filter with it.
        std::mem::forget(classifier.take_link(id).map_err(|error| self.error(error))?);
        self.pins.mark_filter(self.device.ifindex, self.program)?;
        // A filter of another version was the same filter.
        for predecessor in self.pins.predecessors() {
            if predecessor.is_filter(self.device.ifindex, self.program) {
                predecessor.remove_link(self.device.ifindex, self.program)?;
            }
        }
        Ok(())
    }

    /// Our filter, whether it is there or not.
    fn filter(&self) -> Result<SchedClassifierLink, Error> {
        SchedClassifierLink::attached(
            &self.device.name,
            self.program.attach_type(),
            FILTER_PRIORITY,
            FILTER_HANDLE,
            None,
        )
        .map_err(|_gone| Error::NoDevice { ifindex: self.device.ifindex })
    }
}

/// Ends an attachment, also after its device is gone.
///
/// # Errors
/// [`Error::Pin`], [`Error::Detach`].
pub(super) fn detach(pins: &Pins, ifindex: IfIndex, program: Program) -> Result<(), Error> {
    if !pins.is_filter(ifindex, program) {
        // Held until the pin is gone: closing it then ends the attachment at once, and not some time later.
        let link = PinnedLink::from_pin(pins.link(ifindex, program));
        pins.remove_link(ifindex, program)?;
        drop(link);
        return Ok(());
    }
    if let Ok(device) = Device::find(ifindex) {
        let filter = Site { pins, device: &device, program }.filter()?;
        match filter.detach() {
            Err(error) if os_error(&error) != Some(libc::ENOENT) => {
                return Err(Error::Detach { program: program.name(), ifindex, source: error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    pins.remove_link(ifindex, program)
}

/// The kernel's error number, if there is one.
fn os_error(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(SyscallError { io_error, .. }) = error {
        return io_error.raw_os_error();
    }
    if let ProgramError::NetlinkError(error) = error {
        return error.raw_os_error();
    }
    if let ProgramError::TcError(error) = error { tc_os_error(error) } else { None }
}

fn tc_os_error(error: &TcError) -> Option<i32> {
    if let TcError::NetlinkError(error) = error { error.raw_os_error() } else { None }
}
