//! `man`: manual pages.

use std::path::PathBuf;

use anyhow::Context as _;
use netpol_terminal::Terminal;

/// Shown below the options.
const EXAMPLES: &str = "\
Examples:
  netpol man /usr/local/share/man/man1";

/// Write manual pages, one for each command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManArgs {
    /// Folder for the pages. It is made if it does not exist.
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Writes the pages of `command`.
pub(super) fn run(
    args: ManArgs,
    command: clap::Command,
    terminal: &mut Terminal<'_>,
) -> anyhow::Result<u8> {
    let ManArgs { directory } = args;
    let writing = || format!("writing manual pages to {}", directory.display());
    std::fs::create_dir_all(&directory).with_context(writing)?;
    clap_mangen::generate_to(command, &directory).with_context(writing)?;
    terminal.stdout.flush()?;
    Ok(0)
}
