//! The loaded programs and their maps.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::Ebpf;
use netpol_common::ids::IfIndex;
use netpol_common::maps;
use netpol_netlink::ExitGuard;

use crate::attach::Role;
use crate::config::Config;
use crate::error::Error;
use crate::object::{
    Geometry, Pins, TestContext, TestOutcome, Verified, classifier, layout, loader, object,
    test_run, verified,
};
use crate::program::Program;
use crate::tables::{Label, MapSet, Seed};

/// The loaded programs and their maps.
pub struct Datapath {
    pub(crate) ebpf: Ebpf,
    pub(crate) maps: MapSet,
    /// `None` for a private copy.
    pub(crate) pins: Option<Pins>,
    pub(crate) config: Config,
    pub(crate) geometry: Geometry,
    /// The programs that only a TCX migration needs, while one is in progress.
    pub(crate) last: Option<Ebpf>,
    /// The devices to which this process has attached the program of an uplink.
    pub(crate) uplinks: BTreeMap<IfIndex, Role>,
    /// Opened with the first use.
    pub(crate) exit_guard: Option<ExitGuard>,
}

impl Datapath {
    /// Loads the programs, with new maps or those that are pinned.
    ///
    /// Nothing is attached. Programs that an earlier run attached stay in force until [`Datapath::attach`] replaces
    /// them. If they are of another version, their connections are taken over here, their attachments one by one, and
    /// [`retire_predecessor`](netpol_policy::dataplane::port::Attachments::retire_predecessor) completes the upgrade.
    ///
    /// # Errors
    /// A missing requirement ([`Error::NotPermitted`], [`Error::Lacks`], [`Error::Probe`], [`Error::NoBpfFs`]), pins of another
    /// build ([`Error::PinIncompatible`]), or a failure to load.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let Config {
            pin_root,
            mount,
            mark_mask: _,
            trace: _,
            attaching: _,
            flow_reads: _,
            adaptation,
            capacities,
        } = config;
        let object = object(*adaptation)?;
        let layouts = layout::expected(capacities);
        let pins = pin_root.as_deref().map(|root| Pins::open(root, *mount)).transpose()?;
        if let Some(pins) = &pins {
            pins.carry_over(&layouts)?;
            pins.check(&layouts)?;
        }
        let seed = Seed::open(pins.as_ref(), Label::of(&layouts, maps::FLOW_SEED)?)?;
        let geometry = seed.geometry(config)?;
        let mut ebpf =
            loader(config, pins.as_ref(), &geometry).load(&object).map_err(Error::Load)?;
        for program in Program::ALL {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| Error::Refused { program: program.name(), source })?;
        }
        let maps = MapSet::take(&mut ebpf, pins.as_ref(), &layouts, seed)?;
        if pins.is_some() {
            maps.flows.memory()?.recount();
        }
        Ok(Self {
            ebpf,
            maps,
            pins,
            config: config.clone(),
            geometry,
            last: None,
            uplinks: BTreeMap::new(),
            exit_guard: None,
        })
    }

    /// The verifier's figures for each program.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Refused`].
    pub fn verified(&mut self) -> Result<Vec<Verified>, Error> {
        Program::ALL.into_iter().map(|program| verified(&mut self.ebpf, program)).collect()
    }

    /// Runs a program once on a frame that starts with its Ethernet header. The program reads and writes the maps as it
    /// does for a real packet.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::TestRun`] if the device does not exist, or the frame has no byte after
    /// its Ethernet header.
    pub fn test_run(
        &mut self,
        program: Program,
        frame: &[u8],
        context: TestContext,
    ) -> Result<TestOutcome, Error> {
        test_run(&mut self.ebpf, program, frame, context, 1).map(|(outcome, _)| outcome)
    }

    /// Runs a program `n_runs` times on the same frame. Returns the outcome of the last run, and the mean time of a run.
    ///
    /// # Errors
    /// As [`Datapath::test_run`].
    pub fn time_runs(
        &mut self,
        program: Program,
        frame: &[u8],
        context: TestContext,
        n_runs: u32,
    ) -> Result<(TestOutcome, Duration), Error> {
        test_run(&mut self.ebpf, program, frame, context, n_runs)
    }
}
