//! Output of the commands: plain lines, and a spinner for long steps on a terminal.
//!
//! No other module prints. Without a terminal (CI, a pipe) every step prints two plain lines.
#![expect(clippy::print_stdout, reason = "the commands are for people")]

use std::time::Duration;

use console::{Term, style, truncate_str};
use indicatif::{ProgressBar, ProgressStyle};

/// Prints a heading.
pub(crate) fn heading(text: &str) {
    println!("{} {}", style("==").cyan().bold(), style(text).bold());
}

/// Prints a line.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints a success.
pub(crate) fn good(text: &str) {
    println!("{} {text}", style("ok").green());
}

/// Prints a warning.
pub(crate) fn warning(text: &str) {
    println!("{} {text}", style("warning:").yellow().bold());
}

/// Prints a failure; the command continues to find others.
pub(crate) fn failure(text: &str) {
    println!("{} {text}", style("failed:").red().bold());
}

/// A step that takes seconds to minutes and whose own output is hidden.
pub(crate) struct Step {
    label: String,
    bar: ProgressBar,
}

impl Step {
    /// Starts a step: a spinner on a terminal, a line elsewhere.
    pub(crate) fn start(label: &str) -> Self {
        let bar = if console::user_attended_stderr() {
            let template =
                ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix} {msg:.dim}");
            let bar = ProgressBar::new_spinner().with_prefix(label.to_owned());
            bar.set_style(template.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        } else {
            println!("-- {label} ...");
            ProgressBar::hidden()
        };
        Self { label: label.to_owned(), bar }
    }

    /// Shows the latest line of the step's output behind the spinner.
    pub(crate) fn progress(&self, output_line: &str) {
        let width = usize::from(Term::stderr().size().1).saturating_sub(self.label.len() + 12);
        self.bar.set_message(truncate_str(output_line.trim(), width, "…").into_owned());
    }

    /// Ends the step as done.
    pub(crate) fn done(self) {
        let seconds = self.bar.elapsed().as_secs();
        self.bar.finish_and_clear();
        good(&format!("{} ({seconds} s)", self.label));
    }

    /// Ends the step as failed; the caller reports the error.
    pub(crate) fn failed(self) {
        self.bar.finish_and_clear();
        failure(&self.label);
    }
}
