//! What a command reads from and writes to.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write};

/// The three standard streams, as values: tests bring their own.
pub struct Terminal<'a> {
    /// Read by commands that are given the path `-`.
    pub stdin: Box<dyn BufRead + 'a>,
    /// For what was asked for, and nothing else.
    pub stdout: Box<dyn Write + 'a>,
    /// For problems.
    pub stderr: Box<dyn Write + 'a>,
    /// Whether colours and symbols are wanted.
    pub is_styled: bool,
}

impl Terminal<'static> {
    /// The streams of this program. Not locked: other threads log meanwhile. Styled on a terminal, unless `NO_COLOR` is set.
    pub fn of_this_program() -> Self {
        let stdout = io::stdout();
        let wants_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            stdin: Box::new(BufReader::new(io::stdin())),
            is_styled: stdout.is_terminal() && !wants_plain,
            stdout: Box::new(BufWriter::new(stdout)),
            stderr: Box::new(io::stderr()),
        }
    }
}

impl Terminal<'_> {
    /// Tells a problem that does not end the command.
    pub(super) fn complain(&mut self, problem: &dyn Display) {
        // A closed stderr must not end the command either.
        drop(writeln!(self.stderr, "netpol-agent: {problem}"));
    }

    /// Writes what is left, and tells why the command failed, if it did. A reader of `stdout` that went away ended it
    /// early, but well.
    pub(super) fn finish(&mut self, result: anyhow::Result<u8>) -> u8 {
        let result = result.and_then(|code| {
            self.stdout.flush()?;
            Ok(code)
        });
        match result {
            Ok(code) => code,
            Err(error) if is_broken_pipe(&error) => 0,
            Err(error) => {
                self.complain(&in_one_line(&error));
                super::FAILED
            }
        }
    }
}

/// An error and its causes; a cause that is told already is left out.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let error = anyhow::anyhow!("no such file").context("reading a: no such file").context("b");
        assert_eq!(in_one_line(&error), "b: reading a: no such file");
    }
}
