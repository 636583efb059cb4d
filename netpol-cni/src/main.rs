//! netpol-cni: passes the environment, standard input and standard output to [`netpol_cni::run`].
//!
//! A container runtime passes no arguments; a person asks for `--version`.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        let line = format!("netpol-cni {}\n", netpol_proto::build::version());
        return match std::io::stdout().write_all(line.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let environment = netpol_cni::Environment::new(std::env::vars_os());
    ExitCode::from(netpol_cni::run(&environment, std::io::stdin(), std::io::stdout()))
}
