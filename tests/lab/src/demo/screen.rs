//! The demo's output; no other module of it prints.
//!
//! On a terminal: colours and a spinner. Elsewhere: the same text, plain.
#![expect(clippy::print_stdout, reason = "the demo is for people")]

use std::time::Duration;

use console::{Term, style};
use indicatif::{ProgressBar, ProgressStyle};

use super::matrix::{Matrix, WIDTH};

/// Between two matrices side by side, in characters.
const GAP: usize = 4;

/// Width without a terminal: no wrapping.
const WIDTH_WITHOUT_TERMINAL: usize = 140;

/// Shows a spinner.
pub(super) fn progress(text: &str) -> Progress {
    let bar = ProgressBar::new_spinner().with_message(text.to_owned());
    if let Ok(form) = ProgressStyle::with_template("{spinner} {msg:.dim}") {
        bar.set_style(form);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    Progress(bar)
}

/// Prints a heading.
pub(super) fn heading(text: &str) {
    println!("\n{}", style(text).cyan().bold());
}

/// Prints a line of text.
pub(super) fn line(text: &str) {
    println!("{text}");
}

/// Prints the outcome of a check.
pub(super) fn check(check: &Check) {
    let Check { text, n_faults } = check;
    if *n_faults == 0 {
        println!("{} {text}", style("✔").green());
    } else {
        println!("{} {}", style("✘").red().bold(), style(text).bold());
    }
}

/// Prints two matrices, side by side if the terminal is wide enough.
pub(super) fn before_and_after(before: &Matrix, after: &Matrix) {
    let left = before.lines("before", before);
    let right = after.lines("after", before);
    println!();
    if width() >= 2 * WIDTH + GAP {
        for (left, right) in left.iter().zip(&right) {
            println!("{left}{:GAP$}{right}", "");
        }
    } else {
        for line in left.iter().chain(std::iter::once(&String::new())).chain(&right) {
            println!("{line}");
        }
    }
    println!();
}

/// A check and the number of faults found.
pub(super) struct Check {
    /// The result, as text.
    pub(super) text: String,
    /// 0: all is well.
    pub(super) n_faults: usize,
}

/// The spinner stops when this is dropped.
pub(super) struct Progress(ProgressBar);

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn width() -> usize {
    let terminal = Term::stdout();
    if terminal.is_term() { usize::from(terminal.size().1) } else { WIDTH_WITHOUT_TERMINAL }
}
