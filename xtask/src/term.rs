//! What the commands say: plain lines, and a spinner for steps that take long on a terminal.
//!
//! The only module that prints. Without a terminal (CI, a pipe) every step is two plain lines.
#![expect(clippy::print_stdout, reason = "talking to the person is what these commands are for")]

use std::time::Duration;

use console::{Term, style, truncate_str};
use indicatif::{ProgressBar, ProgressStyle};

/// Prints the title of a part of a command's work.
pub(crate) fn heading(text: &str) {
    println!("{} {}", style("==").cyan().bold(), style(text).bold());
}

/// Prints a line that states a fact.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints a line about something that succeeded.
pub(crate) fn good(text: &str) {
    println!("{} {text}", style("ok").green());
}

/// Prints a line about something that the person should know but that stops nothing.
pub(crate) fn warning(text: &str) {
    println!("{} {text}", style("warning:").yellow().bold());
}

/// Prints a line about something that failed; the command goes on to find what else fails.
pub(crate) fn failure(text: &str) {
    println!("{} {text}", style("failed:").red().bold());
}

/// A piece of work that takes seconds to minutes and whose own output is not shown.
pub(crate) struct Step {
    label: String,
    bar: ProgressBar,
}

impl Step {
    /// Announces the work: a spinner on a terminal, a line elsewhere.
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

    /// Shows the latest line of the work's output behind the spinner.
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

    /// Ends the step as failed; the caller's error says why.
    pub(crate) fn failed(self) {
        self.bar.finish_and_clear();
        failure(&self.label);
    }
}
