//! netpol-cni: passes the environment, standard input and standard output to [`netpol_cni::run`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let environment = netpol_cni::Environment::new(std::env::vars_os());
    ExitCode::from(netpol_cni::run(&environment, std::io::stdin(), std::io::stdout()))
}
