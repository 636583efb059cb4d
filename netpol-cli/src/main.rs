//! Explains, checks and simulates Kubernetes `NetworkPolicies` without a node. `netpol help` lists the commands.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mimalloc::MiMalloc;
use netpol_terminal::Terminal;

/// Large input is millions of small values, for which musl's allocator, that of the released program, takes more than half of the time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let mut terminal = Terminal::of_this_program(netpol_cli::PROGRAM);
    ExitCode::from(netpol_cli::run(std::env::args_os(), &mut terminal))
}
