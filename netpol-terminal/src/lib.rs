//! What the commands for people have in common: standard streams, problems, exit codes.
//!
//! In: what a command writes, and how it ends. Out: the streams, and the exit code of the program. Must not: know what a
//! command is about.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use anyhow::Context as _;

/// Exit code: something was found that is denied.
pub const FOUND: u8 = 1;
/// Exit code: the connection is denied.
pub const DENIED: u8 = 1;
/// Exit code: the input cannot be read, or the command failed.
pub const FAILED: u8 = 2;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The three standard streams, as values: tests bring their own.
pub struct Terminal<'a> {
    /// The program's name, in front of each problem.
    pub program: &'static str,
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
    pub fn of_this_program(program: &'static str) -> Self {
        let stdout = io::stdout();
        let wants_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            program,
            stdin: Box::new(BufReader::new(io::stdin())),
            is_styled: stdout.is_terminal() && !wants_plain,
            stdout: Box::new(BufWriter::new(stdout)),
            stderr: Box::new(io::stderr()),
        }
    }
}

impl<'a> Terminal<'a> {
    /// Opens a file, or takes the standard input for the path `-`: it is empty from then on.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(&mut self, path: &Path) -> anyhow::Result<Box<dyn BufRead + 'a>> {
        if path.as_os_str() == "-" {
            return Ok(std::mem::replace(&mut self.stdin, Box::new(io::empty())));
        }
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
    }

    /// Reports a problem that does not end the command.
    pub fn complain(&mut self, problem: &dyn Display) {
        complain(self.program, &mut *self.stderr, problem);
    }

    /// Shows help, or what is wrong with the arguments. Returns the exit code.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn show_usage(&mut self, error: &clap::Error) -> anyhow::Result<u8> {
        let text = error.render();
        if error.use_stderr() {
            let styled = if self.is_styled { text.ansi().to_string() } else { text.to_string() };
            drop(write!(self.stderr, "{styled}"));
            return Ok(FAILED);
        }
        write!(self.stdout, "{text}")?;
        Ok(0)
    }

    /// Writes what is left, and tells why the command failed, if it did. A reader of `stdout` that went away ended it
    /// early, but well.
    pub fn finish(&mut self, result: anyhow::Result<u8>) -> u8 {
        let result = result.and_then(|code| {
            self.stdout.flush()?;
            Ok(code)
        });
        match result {
            Ok(code) => code,
            Err(error) if is_broken_pipe(&error) => 0,
            Err(error) => {
                self.complain(&in_one_line(&error));
                FAILED
            }
        }
    }
}

/// Writes a problem behind the program's name. A closed `stderr` must not end the command either.
pub fn complain(program: &str, stderr: &mut dyn Write, problem: &dyn Display) {
    drop(writeln!(stderr, "{program}: {problem}"));
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
