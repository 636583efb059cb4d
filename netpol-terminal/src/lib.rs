//! Standard streams, problem messages and exit codes, shared by the commands of `netpol` and `netpol-agent`.
//!
//! In: the output and the result of a command. Out: text on the streams, and the exit code. Must not: depend on a command.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use anyhow::Context as _;

/// Exit code: there is a finding of the denied level or above.
pub const FOUND: u8 = 1;
/// Exit code: the connection is denied.
pub const DENIED: u8 = 1;
/// Exit code: the input cannot be read, the arguments are invalid, or the command failed.
pub const FAILED: u8 = 2;

/// The least number of columns at which text is wrapped. Some terminals say that they have none.
const MIN_WIDTH: u16 = 20;

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// The three standard streams, as values, so that tests can replace them.
pub struct Terminal<'a> {
    /// The program's name, the prefix of each problem message.
    pub program: &'static str,
    /// Standard input, for commands with the path `-`.
    pub stdin: Box<dyn BufRead + 'a>,
    /// For the result of the command only.
    pub stdout: Box<dyn Write + 'a>,
    /// For problem messages.
    pub stderr: Box<dyn Write + 'a>,
    /// Whether to write colours and symbols.
    pub is_styled: bool,
    /// The number of columns at which text for people is wrapped; `None` if standard output is not a terminal.
    pub width: Option<usize>,
}

/// When to write colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Also into a file or a pipe.
    Always,
    /// Never.
    Never,
}

impl Terminal<'static> {
    /// The streams of this process. They are not locked, because other threads write log messages. Styled on a terminal, unless
    /// `NO_COLOR` is set.
    pub fn of_this_program(program: &'static str) -> Self {
        let stdout = io::stdout();
        let is_plain_requested =
            std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            program,
            stdin: Box::new(BufReader::new(io::stdin())),
            is_styled: stdout.is_terminal() && !is_plain_requested,
            width: width(&stdout),
            stdout: Box::new(BufWriter::new(stdout)),
            stderr: Box::new(io::stderr()),
        }
    }
}

/// The number of columns of a terminal that is wide enough to wrap text.
fn width(stdout: &io::Stdout) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    (size.ws_col >= MIN_WIDTH).then(|| usize::from(size.ws_col))
}

impl<'a> Terminal<'a> {
    /// Follows the choice of the user.
    pub fn choose_colour(&mut self, colour: Colour) {
        match colour {
            Colour::Auto => {}
            Colour::Always => self.is_styled = true,
            Colour::Never => self.is_styled = false,
        }
    }

    /// Opens a file, or takes the standard input for the path `-`, which is empty afterwards.
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

    /// Writes help to `stdout`, or an error in the arguments to `stderr`. Returns the exit code.
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

    /// Flushes `stdout`, and reports the error of a failed command. A closed `stdout` is not an error, because the reader has
    /// read as much as it needs. Returns the exit code.
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

/// Writes a problem after the program's name. Errors of `stderr` are ignored.
pub fn complain(program: &str, stderr: &mut dyn Write, problem: &dyn Display) {
    drop(writeln!(stderr, "{program}: {problem}"));
}

/// An error and its causes in one line, without causes that the text already contains.
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
    fn a_cause_that_the_message_contains_is_not_repeated() {
        let error = anyhow::anyhow!("no such file").context("reading a: no such file").context("b");
        assert_eq!(in_one_line(&error), "b: reading a: no such file");
    }
}
