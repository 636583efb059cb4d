//! The machine and date of a measurement.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The machine, for readers of the figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Number of processors.
    pub n_processors: usize,
    /// Kernel release.
    pub kernel: String,
    /// The day, UTC.
    pub date: String,
    /// Load average of the last minute.
    pub load: f64,
}

impl Machine {
    /// Inspects this machine.
    ///
    /// # Errors
    /// `/proc` or `date` is missing.
    pub fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let names = cpuinfo.lines().filter(|line| line.starts_with("model name"));
        let processor = names.clone().next().and_then(|line| line.split_once(": "));
        let load = read("/proc/loadavg")?;
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        let date = Command::new("date").args(["-u", "+%F"]).output().context("starting date")?;
        Ok(Self {
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            n_processors: std::thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
            load: load.context("no load in /proc/loadavg")?,
        })
    }
}
