//! The report of a run.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Settings;
use super::gates::Unit;
use super::machine::Machine;
use super::stats::{Estimate, bootstrap, median, of_rounds};

/// The report of one run of a suite, as in the JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The suite's name.
    pub suite: String,
    /// The command that reproduces the report.
    pub command: String,
    /// Machine and date.
    pub machine: Machine,
    /// Whether the run was quick, so that its times mean nothing.
    pub is_quick: bool,
    /// Number of rounds.
    pub n_rounds: usize,
    /// Sentences for the page.
    pub notes: Vec<String>,
    /// Measurements.
    pub series: Vec<Series>,
    /// Answers to rows.
    pub answers: Vec<Answer>,
}

/// An answered row of [`super::gates::ROWS`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The row's number.
    pub row: String,
    /// What was measured.
    pub measured: Estimate,
    /// Details.
    pub note: String,
}

/// A quantity, measured in several configurations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// The quantity.
    pub title: String,
    /// Its unit.
    pub unit: Unit,
    /// The baseline configuration.
    pub baseline: Option<String>,
    /// A sentence for the page.
    pub note: String,
    /// The configurations.
    pub lines: Vec<Line>,
}

/// One configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its baseline configuration, if that is not the one of the series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// One sample per round.
    pub samples: Vec<f64>,
}

impl Line {
    /// A configuration without samples.
    pub fn new(name: String) -> Self {
        Self { name, baseline: None, samples: Vec::new() }
    }

    /// A configuration with its samples.
    pub fn of(name: &str, samples: &[f64]) -> Self {
        Self { samples: samples.to_vec(), ..Self::new(name.to_owned()) }
    }
}

impl Report {
    /// An empty report.
    pub fn new(suite: &str, command: &str, machine: Machine, settings: &Settings) -> Self {
        Self {
            suite: suite.to_owned(),
            command: command.to_owned(),
            machine,
            is_quick: settings.is_quick,
            n_rounds: 0,
            notes: Vec::new(),
            series: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// The answer to a row.
    pub fn answer(&self, row: &str) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.row == row)
    }
}

impl Series {
    /// The same with a baseline.
    #[must_use]
    pub fn over(mut self, baseline: &str) -> Self {
        self.baseline = Some(baseline.to_owned());
        self
    }

    /// The same with a sentence for the page.
    #[must_use]
    pub fn noted(mut self, note: &str) -> Self {
        note.clone_into(&mut self.note);
        self
    }

    /// The same, where one configuration has a baseline of its own.
    #[must_use]
    pub fn except(mut self, name: &str, baseline: &str) -> Self {
        for line in self.lines.iter_mut().filter(|line| line.name == name) {
            line.baseline = Some(baseline.to_owned());
        }
        self
    }

    /// A configuration by its name.
    ///
    /// # Errors
    /// There is none, or it was not measured.
    pub fn line(&self, name: &str) -> Result<&Line> {
        let line = self.lines.iter().find(|line| line.name == name);
        let line = line.with_context(|| format!("{}: no configuration {name}", self.title))?;
        ensure!(!line.samples.is_empty(), "{}: {name} was not measured", self.title);
        Ok(line)
    }

    /// The median.
    ///
    /// # Errors
    /// As [`Series::line`].
    pub fn level(&self, name: &str) -> Result<Estimate> {
        let samples = &self.line(name)?.samples;
        Ok(bootstrap(samples.len(), |rounds| median(&of_rounds(samples, rounds))))
    }

    /// The median difference between a configuration and the baseline of the same round.
    ///
    /// # Errors
    /// As [`Series::line`]; there is no baseline.
    pub fn added(&self, name: &str) -> Result<Estimate> {
        let added = self.added_by_round(name)?;
        Ok(bootstrap(added.len(), |rounds| median(&of_rounds(&added, rounds))))
    }

    /// The ratio of two medians.
    ///
    /// # Errors
    /// As [`Series::line`].
    pub fn ratio(&self, ours: &str, peer: &str) -> Result<Estimate> {
        Ok(quotient(&self.line(ours)?.samples, &self.line(peer)?.samples))
    }

    /// The ratio of what two configurations add to the baseline.
    ///
    /// # Errors
    /// As [`Series::line`]; there is no baseline.
    pub fn ratio_of_added(&self, ours: &str, peer: &str) -> Result<Estimate> {
        Ok(quotient(&self.added_by_round(ours)?, &self.added_by_round(peer)?))
    }

    fn added_by_round(&self, name: &str) -> Result<Vec<f64>> {
        let line = self.line(name)?;
        let baseline = line.baseline.as_deref().or(self.baseline.as_deref());
        let baseline = baseline.with_context(|| format!("{} has no baseline", self.title))?;
        let baseline = &self.line(baseline)?.samples;
        let samples = &line.samples;
        Ok(samples.iter().zip(baseline).map(|(sample, below)| sample - below).collect())
    }
}

fn quotient(ours: &[f64], peer: &[f64]) -> Estimate {
    bootstrap(ours.len().min(peer.len()), |rounds| {
        median(&of_rounds(ours, rounds)) / median(&of_rounds(peer, rounds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Series {
        let lines = vec![
            Line::of("none", &[100.0, 200.0, 110.0]),
            Line::of("ours", &[110.0, 210.0, 120.0]),
            Line::of("peer", &[140.0, 240.0, 150.0]),
            Line::of("absent", &[]),
        ];
        Series {
            title: "packets".into(),
            unit: Unit::Nanos,
            baseline: None,
            note: String::new(),
            lines,
        }
    }

    #[test]
    fn what_is_added_is_compared_within_a_round() {
        let series = series().over("none");
        assert_eq!(series.ratio_of_added("ours", "peer").unwrap(), Estimate::exact(0.25));
        assert_eq!(series.added("peer").unwrap(), Estimate::exact(40.0));
        let own = series.clone().except("peer", "ours");
        assert_eq!(own.added("peer").unwrap(), Estimate::exact(30.0));
        assert_eq!(own.added("ours").unwrap(), Estimate::exact(10.0));
        let level = series.level("ours").unwrap().value;
        assert!(level.total_cmp(&120.0).is_eq(), "{level}");
        let ratio = series.ratio("ours", "peer").unwrap().value;
        assert!(ratio.total_cmp(&0.8).is_eq(), "{ratio}");
    }

    #[test]
    fn what_was_not_measured_is_not_compared() {
        assert!(series().ratio_of_added("ours", "peer").is_err());
        assert!(series().over("none").ratio_of_added("ours", "nobody").is_err());
        assert!(series().over("none").ratio_of_added("ours", "absent").is_err());
    }
}
