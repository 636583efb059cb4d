//! One program on one device: the link or the filter by which it hangs there.
//!
//! A link is pinned. A filter needs no pin to stay: an empty folder stands for it, made before the filter and removed
//! after it.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use netpol_common::ids::IfIndex;
use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketType, socket};

use super::Program;
use super::error::Error;
use super::pins::{Pins, pin_error};
use crate::netlink::{CLSACT, Filter, Position, Side, TrafficControl};

/// Where our netlink filters are among others: first, because one that passes a packet ends the search.
const POSITION: Position = Position { priority: 1, handle: 0x6e70 };

impl Program {
    /// What is egress for the host's end of a veth pair is ingress for the pod.
    pub(super) const fn attach_type(self) -> TcAttachType {
        match self.side() {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::PodEgress => Side::Ingress,
            Self::PodIngress | Self::UplinkEgress | Self::UplinkEgressL3 => Side::Egress,
        }
    }
}

/// A network device of this namespace.
#[derive(Debug)]
pub(super) struct Device {
    ifindex: IfIndex,
    pub(super) name: String,
}

impl Device {
    /// # Errors
    /// [`Error::NoDevice`].
    pub(super) fn find(ifindex: IfIndex) -> Result<Self, Error> {
        let no_device = |_| Error::NoDevice { ifindex };
        let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(no_device)?;
        let name = index_to_name(any, ifindex.0).map_err(no_device)?;
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
    pub(super) fn error(&self, source: ProgramError) -> Error {
        Error::Attach { program: self.program.name(), ifindex: self.device.ifindex, source }
    }

    fn filter_error(&self, source: io::Error) -> Error {
        Error::Filter { program: self.program.name(), ifindex: self.device.ifindex, source }
    }

    fn traffic_control(&self) -> Result<TrafficControl, Error> {
        TrafficControl::open().map_err(|error| self.filter_error(error))
    }

    /// Gives what hangs here already this program, in one step, also if it is of another version. False if nothing does.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Link`], [`Error::Filter`], [`Error::Pin`].
    pub(super) fn renew(&self, classifier: &mut SchedClassifier) -> Result<bool, Error> {
        let (ifindex, program) = (self.device.ifindex, self.program);
        self.finish_migration(self.pins)?;
        if self.replace_in(classifier, self.pins)? {
            return Ok(true);
        }
        for predecessor in self.pins.predecessors() {
            self.finish_migration(predecessor)?;
            if self.replace_in(classifier, predecessor)? {
                self.pins.take_over(predecessor, ifindex, program)?;
                return Ok(true);
            }
        }
        if !self.has_filter() {
            return Ok(false);
        }
        self.ensure_capacity()?;
        self.hang_filter(classifier)?;
        Ok(true)
    }

    /// Whether a filter is noted here, of this version or another.
    fn has_filter(&self) -> bool {
        let (ifindex, program) = (self.device.ifindex, self.program);
        let mut all = self.pins.predecessors().iter().chain([self.pins]);
        all.any(|pins| pins.is_filter(ifindex, program))
    }

    /// Makes a link and pins it.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Link`], [`Error::Pin`], [`Error::NoDevice`].
    pub(super) fn hang_link(&self, classifier: &mut SchedClassifier) -> Result<(), Error> {
        let path = self.pins.link(self.device.ifindex, self.program);
        self.link_to(classifier, &path)
    }

    /// Makes a link behind whose program the filter is not asked any more, and pins it as one that is to take the filter's
    /// place.
    ///
    /// # Errors
    /// Those of [`Site::hang_link`].
    pub(super) fn begin_migration(&self, last: &mut SchedClassifier) -> Result<(), Error> {
        self.link_to(last, &self.pins.migration(self.device.ifindex, self.program))
    }

    fn link_to(&self, classifier: &mut SchedClassifier, path: &Path) -> Result<(), Error> {
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
        let link: FdLink =
            link.try_into().map_err(|source| Error::Link { path: path.to_owned(), source })?;
        link.pin(path).map_err(|error| pin_error(path, error))?;
        Ok(())
    }

    /// Removes the filter whose place a link is to take, if there is one, and gives that link the filter's pin. Until its program
    /// is replaced no program behind it runs.
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
        pins.settle(ifindex, program)
    }

    /// Replaces the program of a link where it is pinned, in one step; false if there is no link.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Link`], [`Error::Pin`].
    pub(super) fn replace_in(
        &self,
        classifier: &mut SchedClassifier,
        pins: &Pins,
    ) -> Result<bool, Error> {
        if pins.is_filter(self.device.ifindex, self.program) {
            return Ok(false);
        }
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

    /// Makes the device ready for a filter of ours. False if somebody else filters there: whatever that is, it must go on and
    /// must not be asked before us.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn evict_for(&self) -> Result<bool, Error> {
        match self.traffic_control()?.add_clsact(self.device.ifindex) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let both = [Program::PodIngress, Program::PodEgress];
                Ok(both.into_iter().any(|program| Site { program, ..*self }.has_filter()))
            }
            Err(error) => Err(self.filter_error(error)),
        }
    }

    /// Makes sure that there is a queueing discipline for filters of both sides.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Occupied`].
    pub(super) fn ensure_capacity(&self) -> Result<(), Error> {
        let ifindex = self.device.ifindex;
        let mut kernel = self.traffic_control()?;
        match kernel.add_clsact(ifindex) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // `ingress` takes filters of both sides for those of one.
                let kind =
                    kernel.ingress_kind(ifindex).map_err(|error| self.filter_error(error))?;
                if kind.as_deref() == Some(CLSACT) {
                    return Ok(());
                }
                let (program, kind) = (self.program.name(), kind.unwrap_or_default());
                Err(Error::Occupied { program, ifindex, kind })
            }
            outcome => outcome.map_err(|error| self.filter_error(error)),
        }
    }

    /// Makes our filter, or replaces its program in one step. A filter of another version was the same filter.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Pin`], [`Error::Attach`].
    pub(super) fn hang_filter(&self, classifier: &SchedClassifier) -> Result<(), Error> {
        let (ifindex, program) = (self.device.ifindex, self.program);
        let mut kernel = self.traffic_control()?;
        self.pins.mark_filter(ifindex, program)?;
        let fd = classifier.fd().map_err(|error| self.error(error))?;
        kernel
            .set_filter(ifindex, program.side(), POSITION, (fd.as_fd(), program.name()))
            .map_err(|error| self.filter_error(error))?;
        for predecessor in self.pins.predecessors() {
            if predecessor.is_filter(ifindex, program) {
                predecessor.unmark_filter(ifindex, program)?;
            }
        }
        Ok(())
    }

    /// Removes our filter. That it was not there is no error.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn remove_filter(&self) -> Result<(), Error> {
        let (ifindex, side) = (self.device.ifindex, self.program.side());
        let mut kernel = self.traffic_control()?;
        let removed = kernel.remove_filter(ifindex, side, POSITION);
        // The kernel has many words for that.
        let is_there = removed.is_err() && self.filters()?.iter().any(is_ours);
        if is_there { removed.map_err(|error| self.filter_error(error)) } else { Ok(()) }
    }

    /// The number of the program of our filter, if it is there.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn program_of_filter(&self) -> Result<Option<u32>, Error> {
        Ok(self.filters()?.iter().find(|filter| is_ours(filter)).and_then(|ours| ours.program_id))
    }

    /// Whether programs of others hang on this side of the device.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Attach`].
    pub(super) fn is_shared(&self) -> Result<bool, Error> {
        if self.filters()?.iter().any(|filter| !is_ours(filter)) {
            return Ok(true);
        }
        let found = SchedClassifier::query_tcx(&self.device.name, self.program.attach_type());
        let (_, programs) = found.map_err(|error| self.error(error))?;
        Ok(!programs.is_empty())
    }

    fn filters(&self) -> Result<Vec<Filter>, Error> {
        let found = self.traffic_control()?.filters(self.device.ifindex, self.program.side());
        found.map_err(|error| self.filter_error(error))
    }
}

fn is_ours(filter: &Filter) -> bool {
    filter.position == POSITION
}

/// The kernel's error number, if there is one.
fn os_error(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(SyscallError { io_error, .. }) = error {
        return io_error.raw_os_error();
    }
    None
}
