//! TCX migration: links replace the clsact filters of a new pod's programs.
//!
//! Each packet is judged exactly once at every moment, and an agent that dies between two steps leaves a state in which that
//! still holds. A TCX link runs before the filters. The first program of the link ends the program chain
//! (`pod_ingress_last`, `pod_egress_last`), so the filter does not run any more once the link exists. Then the filter is
//! removed, and the link's program is replaced by the regular one in one step.
//!
//! Only the creation of the link waits, so [`Migration::run`] can run on a worker thread. The `_last` programs are loaded when
//! there is a filter to migrate, and unloaded after the last one.

use aya::Ebpf;
use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::Migrated;

use super::site::{Device, Site};
use crate::config::Config;
use crate::error::Error;
use crate::object::{Geometry, Pins, classifier, classifier_named, loader, object};
use crate::program::Program;

/// The migration of one program of an interface.
pub struct Migration {
    pub(super) config: Config,
    pub(super) pins: Pins,
    pub(super) geometry: Geometry,
    pub(super) ifindex: IfIndex,
    pub(super) program: Program,
    /// The `_last` programs, once they are loaded.
    pub(super) last: Option<Ebpf>,
    pub(super) outcome: Result<Migrated, Error>,
}

/// Whether a program is attached by a filter although it could be attached by a link.
pub(super) fn needs_migration(pins: &Pins, ifindex: IfIndex, program: Program) -> bool {
    program.last_name().is_some()
        && (pins.is_filter(ifindex, program) || pins.migration(ifindex, program).exists())
}

impl Migration {
    /// The interface.
    pub fn ifindex(&self) -> IfIndex {
        self.ifindex
    }

    /// The slow part: creates the link, for which the kernel waits for packets in flight with the RTNL lock held.
    #[must_use]
    pub fn run(mut self) -> Self {
        self.outcome = self.make_link();
        self
    }

    fn make_link(&mut self) -> Result<Migrated, Error> {
        let device = Device::find(self.ifindex)?;
        let site = Site { pins: &self.pins, device: &device, program: self.program };
        if self.pins.migration(self.ifindex, self.program).exists() {
            // An earlier agent created the link.
            return Ok(Migrated::Yes);
        }
        if site.is_shared()? {
            return Ok(Migrated::Shared);
        }
        let last = match &mut self.last {
            Some(last) => last,
            none => none.insert(load(&self.config, &self.pins, &self.geometry)?),
        };
        let name = self.program.last_name().unwrap_or_default();
        site.begin_migration(classifier_named(last, name)?)?;
        Ok(Migrated::Yes)
    }

    /// Removes the filter and gives the link the regular program. Returns the `_last` programs for the next migration, and the
    /// outcome.
    ///
    /// # Errors
    /// The failure of this step or of [`Migration::run`]. Either the filter or the link is in force then.
    pub(super) fn finish(self, ebpf: &mut Ebpf) -> (Option<Ebpf>, Result<Migrated, Error>) {
        let Self { config: _, pins, geometry: _, ifindex, program, last, outcome } = self;
        let outcome = outcome.and_then(|migrated| {
            let device = Device::find(ifindex)?;
            let site = Site { pins: &pins, device: &device, program };
            site.finish_migration(&pins)?;
            if !pins.is_filter(ifindex, program) {
                site.replace_link(classifier(ebpf, program)?, &pins)?;
            }
            Ok(migrated)
        });
        (last, outcome)
    }
}

/// Loads the `_last` programs with the maps that are pinned.
fn load(config: &Config, pins: &Pins, geometry: &Geometry) -> Result<Ebpf, Error> {
    let object = object(config.adaptation)?;
    let mut ebpf = loader(config, Some(pins), geometry).load(&object).map_err(Error::Load)?;
    for name in Program::ALL.into_iter().filter_map(Program::last_name) {
        let program = classifier_named(&mut ebpf, name)?;
        program.load().map_err(|source| Error::Refused { program: name, source })?;
    }
    Ok(ebpf)
}
