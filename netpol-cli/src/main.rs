//! Explains, checks and simulates Kubernetes `NetworkPolicies` without a node. `netpol help` lists the commands.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use netpol_terminal::Terminal;

fn main() -> ExitCode {
    let mut terminal = Terminal::of_this_program(netpol_cli::PROGRAM);
    ExitCode::from(netpol_cli::run(std::env::args_os(), &mut terminal))
}
