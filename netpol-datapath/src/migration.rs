//! Links in the place of the filters on which the programs of a new pod hang at first.
//!
//! Each packet is judged once all the while, and whoever dies between two steps leaves it so. The link is asked before the filter.
//! Its first program is one behind which no other runs (`pod_ingress_last`, `pod_egress_last`): from the moment at which the link
//! is there, the filter is not asked any more. Then the filter goes, and the link gets the program of links in one step.
//!
//! Only the link makes anybody wait: [`Migration::run`] can be done beside the event loop. The programs that it needs are loaded when
//! there is something to exchange, and let go when there is nothing more.

use std::collections::BTreeSet;

use aya::Ebpf;
use netpol_common::ids::IfIndex;
use netpol_policy::dataplane::port::Migrated;

use super::attach::Attaching;
use super::error::Error;
use super::flows::Geometry;
use super::load::{OBJECT, classifier, classifier_named, loader};
use super::pins::Pins;
use super::site::{Device, Site};
use super::{Config, Datapath, Program};

/// The exchange of one program's filter.
pub struct Migration {
    config: Config,
    pins: Pins,
    geometry: Geometry,
    ifindex: IfIndex,
    program: Program,
    /// The programs behind which no other runs, once they are loaded.
    last: Option<Ebpf>,
    outcome: Result<Migrated, Error>,
}

impl Program {
    /// The program of the same kind behind which no other runs. Uplinks have none: they are never exchanged.
    const fn last_name(self) -> Option<&'static str> {
        match self {
            Self::PodIngress => Some("pod_ingress_last"),
            Self::PodEgress => Some("pod_egress_last"),
            Self::UplinkEgress | Self::UplinkEgressL3 => None,
        }
    }
}

impl Datapath {
    /// The pods' interfaces whose programs hang on filters although links are known.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub fn on_filters(&self) -> Result<BTreeSet<IfIndex>, Error> {
        let (Some(pins), Attaching::Links) = (&self.pins, self.config.attaching) else {
            return Ok(BTreeSet::new());
        };
        let attachments = pins.attachments()?.into_iter();
        let on_filters =
            attachments.filter(|(ifindex, program)| is_on_filter(pins, *ifindex, *program));
        Ok(on_filters.map(|(ifindex, _)| ifindex).collect())
    }

    /// The exchange of a filter of this interface, if it has one.
    ///
    /// # Errors
    /// [`Error::NotPinned`].
    pub fn begin_migration(&mut self, ifindex: IfIndex) -> Result<Option<Migration>, Error> {
        let pins = self.pins.as_ref().ok_or(Error::NotPinned)?;
        let program = match self.config.attaching {
            Attaching::Links => [Program::PodIngress, Program::PodEgress]
                .into_iter()
                .find(|program| is_on_filter(pins, ifindex, *program)),
            Attaching::Filters => None,
        };
        Ok(program.map(|program| Migration {
            config: self.config.clone(),
            pins: pins.clone(),
            geometry: self.geometry,
            ifindex,
            program,
            last: self.last.take(),
            outcome: Ok(Migrated::Yes),
        }))
    }

    /// Finishes an exchange that has been [run](Exchange::run).
    ///
    /// # Errors
    /// What went wrong, now or before; then the filter stays, or the link is there.
    pub fn end_migration(&mut self, migration: Migration) -> Result<Migrated, Error> {
        let Migration { config: _, pins, geometry: _, ifindex, program, last, outcome } = migration;
        let outcome = outcome.and_then(|migrated| {
            let device = Device::find(ifindex)?;
            let site = Site { pins: &pins, device: &device, program };
            site.finish_migration(&pins)?;
            if !pins.is_filter(ifindex, program) {
                site.replace_in(classifier(&mut self.ebpf, program)?, &pins)?;
            }
            Ok(migrated)
        });
        let is_more = self.on_filters().is_ok_and(|left| !left.is_empty());
        self.last = last.filter(|_| is_more);
        outcome
    }
}

fn is_on_filter(pins: &Pins, ifindex: IfIndex, program: Program) -> bool {
    program.last_name().is_some()
        && (pins.is_filter(ifindex, program) || pins.migration(ifindex, program).exists())
}

impl Migration {
    /// The interface.
    pub fn ifindex(&self) -> IfIndex {
        self.ifindex
    }

    /// Does what takes time: the kernel waits for packets under way, in its lock on all devices.
    #[must_use]
    pub fn run(mut self) -> Self {
        self.outcome = self.make_link();
        self
    }

    fn make_link(&mut self) -> Result<Migrated, Error> {
        let device = Device::find(self.ifindex)?;
        let site = Site { pins: &self.pins, device: &device, program: self.program };
        if self.pins.migration(self.ifindex, self.program).exists() {
            // Another agent has come so far.
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
}

/// Loads the programs behind which no other runs, with the maps of the others.
fn load(config: &Config, pins: &Pins, geometry: &Geometry) -> Result<Ebpf, Error> {
    let mut ebpf = loader(config, Some(pins), geometry).load(OBJECT).map_err(Error::Load)?;
    for name in Program::ALL.into_iter().filter_map(Program::last_name) {
        let program = classifier_named(&mut ebpf, name)?;
        program.load().map_err(|source| Error::Refused { program: name, source })?;
    }
    Ok(ebpf)
}
