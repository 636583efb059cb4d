//! Benchmarks: `cargo xtask bench`, netpol and its peers measured in one run.
//!
//! In: a suite (`dp`, `cp`, `cni`, `soak`, `offline`) and [`Settings`]. Out: a [`Report`] as JSON, plots, and `benchmarks.md`, which is
//! generated from the reports of all suites. Absolute times depend on the machine, so most gates are ratios: of what two
//! configurations add to the same baseline in one run.
//!
//! # Adding a suite
//!
//! A suite is a function in the table [`SUITES`]. It gets a [`Run`] and
//!
//! 1. measures [`Series`], the same quantity in several configurations, by [`Run::interleaved`]: one sample per round, in an
//!    order that changes from round to round;
//! 2. answers rows of [`gates::ROWS`] by [`Run::answer`] with an [`Estimate`]: [`Series::ratio_of_added`],
//!    [`Series::ratio`], or [`Series::level`].
//!
//! ```no_run
//! use netpol_bench::{Run, gates::Unit};
//!
//! fn measure(run: &mut Run) -> anyhow::Result<()> {
//!     let mut contenders = [("full compile", 1_000), ("one event", 1)];
//!     let series = run.interleaved(
//!         "one pod event",
//!         Unit::Micros,
//!         &mut contenders,
//!         |(name, _)| (*name).to_owned(),
//!         |(_, n_pods), _round| netpol_bench::clock::micros(|| Ok(*n_pods)).map(|(time, _)| time),
//!     )?;
//!     run.answer("13b", series.ratio("one event", "full compile")?, "")?;
//!     run.add(series);
//!     Ok(())
//! }
//! ```
//!
//! Sizes depend on [`Settings::is_quick`]: a quick run only tests the benchmark. A failed check during a measurement, for
//! example denied traffic that arrives, is an error of the suite.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;

pub mod clock;
pub mod cni;
pub mod cp;
pub mod dp;
pub mod gates;
pub mod machine;
pub mod offline;
pub mod options;
pub mod page;
pub mod plot;
pub mod report;
pub mod scale;
pub mod soak;
pub mod stats;
mod view;

pub use self::report::{Answer, Line, Report, Series};
pub use self::stats::Estimate;

use self::gates::Unit;
use self::machine::Machine;

/// A function that measures a suite and answers rows.
pub type Suite = fn(&mut Run) -> Result<()>;

/// The suites by name.
pub const SUITES: [(&str, Suite); 5] = [
    ("dp", dp::measure),
    ("cp", cp::measure),
    ("cni", cni::measure),
    ("soak", soak::measure),
    ("offline", offline::measure),
];

/// Maximum load average for a published measurement.
const MAX_LOAD: f64 = 1.2;

/// Parameters of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Small sizes and few rounds: only tests the benchmark.
    pub is_quick: bool,
    /// Rounds; the default is the suite's.
    pub n_rounds: Option<usize>,
    /// Measure on a busy machine too.
    pub is_load_ignored: bool,
    /// Where `benchmarks.md` and the folder `benchmarks` are written; nowhere if `None`.
    pub output: Option<PathBuf>,
    /// Only this part of the suite.
    pub part: Option<String>,
    /// Seed of the order and of all random choices.
    pub seed: u64,
}

/// A running suite.
#[derive(Debug)]
pub struct Run {
    /// Parameters.
    pub settings: Settings,
    /// Random numbers.
    pub rng: Rng,
    report: Report,
}

impl Run {
    /// Number of rounds.
    pub fn n_rounds(&self) -> usize {
        self.settings.n_rounds.unwrap_or(if self.settings.is_quick { 2 } else { 9 }).max(1)
    }

    /// The full or the quick size.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.settings.is_quick { quick } else { full }
    }

    /// Whether a part of the suite is asked for.
    pub fn wants(&self, part: &str) -> bool {
        self.settings.part.as_ref().is_none_or(|wanted| wanted == part)
    }

    /// Measures every contender once per round, in an order that changes from round to round.
    ///
    /// # Errors
    /// Those of `sample`, with the contender's name.
    pub fn interleaved<C>(
        &mut self,
        title: &str,
        unit: Unit,
        contenders: &mut [C],
        name: impl Fn(&C) -> String,
        sample: impl FnMut(&mut C, usize) -> Result<f64>,
    ) -> Result<Series> {
        self.interleaved_often(1, title, unit, contenders, name, sample)
    }

    /// The same with `times` as many rounds, for differences close to the scatter.
    ///
    /// # Errors
    /// As for [`Self::interleaved`].
    pub fn interleaved_often<C>(
        &mut self,
        times: usize,
        title: &str,
        unit: Unit,
        contenders: &mut [C],
        name: impl Fn(&C) -> String,
        mut sample: impl FnMut(&mut C, usize) -> Result<f64>,
    ) -> Result<Series> {
        let n_rounds = if self.settings.is_quick { 1 } else { times } * self.n_rounds();
        let mut lines: Vec<Line> = contenders.iter().map(|c| Line::new(name(c))).collect();
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        for round in 0..n_rounds {
            self.say(&format!("{title}: round {} of {n_rounds}", round + 1));
            self.rng.shuffle(&mut order);
            for index in &order {
                if let (Some(contender), Some(line)) =
                    (contenders.get_mut(*index), lines.get_mut(*index))
                {
                    let sampled = sample(contender, round);
                    line.samples.push(sampled.with_context(|| format!("{title}, {}", line.name))?);
                }
            }
        }
        Ok(Series { title: title.to_owned(), unit, baseline: None, note: String::new(), lines })
    }

    /// Adds a series to the report.
    pub fn add(&mut self, series: Series) {
        self.report.series.push(series);
    }

    /// Answers a row of [`gates::ROWS`]; the note adds details.
    ///
    /// # Errors
    /// There is no such row.
    pub fn answer(&mut self, row: &str, measured: Estimate, note: &str) -> Result<()> {
        gates::row(row)?;
        self.report.answers.push(Answer { row: row.to_owned(), measured, note: note.to_owned() });
        Ok(())
    }

    /// Adds a sentence to the page.
    pub fn note(&mut self, text: impl Into<String>) {
        self.report.notes.push(text.into());
    }

    /// Prints progress.
    #[expect(clippy::print_stderr, reason = "progress, for a person")]
    pub fn say(&self, text: &str) {
        eprintln!("{}: {text}", self.report.suite);
    }
}

/// Runs a suite and writes its report.
///
/// # Errors
/// The suite does not exist, the machine is too busy, the suite failed, or the report could not be written.
pub fn run(suite: &str, settings: Settings, command: &str) -> Result<Report> {
    let names: Vec<_> = SUITES.iter().map(|(name, _)| *name).collect();
    let Some((_, measure)) = SUITES.iter().find(|(name, _)| *name == suite) else {
        bail!("there is no suite {suite}: there are {}", names.join(", "));
    };
    let machine = Machine::look()?;
    ensure!(
        settings.is_quick || settings.is_load_ignored || machine.load <= MAX_LOAD,
        "the load is {}: nothing is published above {MAX_LOAD} (--anyway measures all the same)",
        machine.load
    );
    let rng = Rng::with_seed(settings.seed);
    let report = Report::new(suite, command, machine, &settings);
    let mut run = Run { settings, rng, report };
    run.report.n_rounds = run.n_rounds();
    measure(&mut run)?;
    if let Some(folder) = &run.settings.output {
        page::write(folder, &run.report)?;
    }
    Ok(run.report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            is_quick: true,
            n_rounds: Some(5),
            is_load_ignored: true,
            output: None,
            part: None,
            seed: 1,
        }
    }

    #[test]
    fn every_contender_is_measured_once_a_round_and_the_order_changes() {
        let settings = settings();
        let machine = Machine::look().unwrap();
        let report = Report::new("test", "", machine, &settings);
        let mut run = Run { settings, rng: Rng::with_seed(1), report };
        let mut order = Vec::new();
        let mut contenders = [0_u32, 1, 2, 3];
        let series = run
            .interleaved(
                "order",
                Unit::Nanos,
                &mut contenders,
                u32::to_string,
                |contender, round| {
                    order.push(*contender);
                    Ok(f64::from(*contender) + f64::from(u32::try_from(round).unwrap()) / 10.0)
                },
            )
            .unwrap();
        assert_eq!(series.line("2").unwrap().samples, [2.0, 2.1, 2.2, 2.3, 2.4]);
        let rounds: std::collections::BTreeSet<_> = order.chunks(4).collect();
        assert!(rounds.len() > 1, "{order:?}");
    }

    #[test]
    fn an_unknown_suite_and_an_unknown_row_are_refused() {
        let error = run("disk", settings(), "").unwrap_err().to_string();
        assert!(error.contains("there are dp, cp, "), "{error}");
        let report = Report::new("test", "", Machine::look().unwrap(), &settings());
        let mut run = Run { settings: settings(), rng: Rng::with_seed(1), report };
        assert!(run.answer("99", Estimate::exact(1.0), "").is_err());
    }
}
