//! Attachment by a pinned TCX link.

use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};
use aya::sys::SyscallError;

use super::site::{Device, Site};
use crate::error::{Error, pin_error};
use crate::object::Pins;

impl Site<'_> {
    /// Creates a link and pins it.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Link`], [`Error::Pin`], [`Error::NoDevice`].
    pub(super) fn attach_link(&self, classifier: &mut SchedClassifier) -> Result<(), Error> {
        let path = self.pins.link(self.device.ifindex, self.program);
        self.link_to(classifier, &path)
    }

    /// Creates a link and pins it at `path`.
    ///
    /// # Errors
    /// Those of [`Site::attach_link`].
    pub(super) fn link_to(
        &self,
        classifier: &mut SchedClassifier,
        path: &Path,
    ) -> Result<(), Error> {
        // First in the chain, because a program that passes a packet can keep it from those after it.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let attached =
            classifier.attach_with_options(&self.device.name, self.program.attach_type(), order);
        let id = attached.map_err(|error| self.error(error))?;
        let link = classifier.take_link(id).map_err(|error| self.error(error))?;
        // aya attaches by name, and another device can have got the name meanwhile.
        if Device::find(self.device.ifindex)?.name != self.device.name {
            return Err(Error::NoDevice { ifindex: self.device.ifindex });
        }
        let link: FdLink =
            link.try_into().map_err(|source| Error::Link { path: path.to_owned(), source })?;
        link.pin(path).map_err(|error| pin_error(path, error))?;
        Ok(())
    }

    /// Replaces the program of a pinned link in one step. False if there is no link.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Link`], [`Error::Pin`].
    pub(super) fn replace_link(
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
                // Closes only the file descriptor: the pin keeps the link.
                drop(classifier.take_link(id).map_err(|error| self.error(error))?);
                Ok(true)
            }
            // The link's device is gone, and the kernel has reused its index for this one.
            Err(error) if os_error(&error) == Some(libc::ENOLINK) => {
                pins.remove_link(self.device.ifindex, self.program)?;
                Ok(false)
            }
            Err(error) => Err(self.error(error)),
        }
    }
}

/// The kernel's error number, if there is one.
fn os_error(error: &ProgramError) -> Option<i32> {
    if let ProgramError::SyscallError(SyscallError { io_error, .. }) = error {
        return io_error.raw_os_error();
    }
    None
}
