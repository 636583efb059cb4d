//! `completions`: scripts that complete commands and options in a shell.

use netpol_terminal::Terminal;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol completions bash >/etc/bash_completion.d/netpol";

/// Write a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Writes the script for the program `file_name`.
pub(super) fn run(
    args: &CompletionsArgs,
    command: &mut clap::Command,
    file_name: &str,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let CompletionsArgs { shell } = *args;
    let mut script = Vec::new();
    clap_complete::generate(shell, command, file_name, &mut script);
    terminal.stdout.write_all(&script)?;
    Ok(0)
}
