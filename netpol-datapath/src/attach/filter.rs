//! Attachment by a clsact filter.

use std::io;
use std::os::fd::AsFd as _;

use aya::programs::SchedClassifier;
use netpol_netlink::{CLSACT, Filter, Position};

use super::site::Site;
use crate::error::Error;
use crate::program::Program;

/// Position of our filters among others: first, because a filter that passes a packet ends the chain.
pub(super) const POSITION: Position = Position { priority: 1, handle: 0x6e70 };

impl Site<'_> {
    /// Whether the pins of this or another version record a filter here.
    pub(super) fn has_filter(&self) -> bool {
        let (ifindex, program) = (self.device.ifindex, self.program);
        let mut all = self.pins.predecessors().iter().chain([self.pins]);
        all.any(|pins| pins.is_filter(ifindex, program))
    }

    /// Gives the device a clsact queueing discipline for our filters. False if another program owns the one that is there,
    /// because its filters must stay in force and must not run before ours.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn claim_clsact(&self) -> Result<bool, Error> {
        match self.traffic_control()?.add_clsact(self.device.ifindex) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let both = [Program::PodIngress, Program::PodEgress];
                Ok(both.into_iter().any(|program| Site { program, ..*self }.has_filter()))
            }
            Err(error) => Err(self.filter_error(error)),
        }
    }

    /// Makes sure that the device has a clsact queueing discipline.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Occupied`].
    pub(super) fn ensure_clsact(&self) -> Result<(), Error> {
        let ifindex = self.device.ifindex;
        let mut kernel = self.traffic_control()?;
        match kernel.add_clsact(ifindex) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // The `ingress` discipline would accept filters for both sides and run them on ingress.
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

    /// Creates our filter, or replaces its program in one step. All versions use the same filter.
    ///
    /// # Errors
    /// [`Error::Filter`], [`Error::Pin`], [`Error::Attach`].
    pub(super) fn attach_filter(&self, classifier: &SchedClassifier) -> Result<(), Error> {
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

    /// Removes our filter, if there is one.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn remove_filter(&self) -> Result<(), Error> {
        let (ifindex, side) = (self.device.ifindex, self.program.side());
        let mut kernel = self.traffic_control()?;
        let removed = kernel.remove_filter(ifindex, side, POSITION);
        // The error for a missing filter differs between kernels and cases.
        let is_there = removed.is_err() && self.filters()?.iter().any(is_own_filter);
        if is_there { removed.map_err(|error| self.filter_error(error)) } else { Ok(()) }
    }

    /// The kernel's id of the program of our filter, if there is one.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn program_of_filter(&self) -> Result<Option<u32>, Error> {
        Ok(self
            .filters()?
            .iter()
            .find(|filter| is_own_filter(filter))
            .and_then(|ours| ours.program_id))
    }

    /// Whether others have a filter on this side of the device.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn has_foreign_filter(&self) -> Result<bool, Error> {
        Ok(self.filters()?.iter().any(|filter| !is_own_filter(filter)))
    }

    /// All filters on this side of the device.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub(super) fn filters(&self) -> Result<Vec<Filter>, Error> {
        let found = self.traffic_control()?.filters(self.device.ifindex, self.program.side());
        found.map_err(|error| self.filter_error(error))
    }
}

/// Whether a filter is at the position of ours.
pub(super) fn is_own_filter(filter: &Filter) -> bool {
    filter.position == POSITION
}
