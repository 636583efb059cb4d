//! Enforces Kubernetes `NetworkPolicies` on a node, and explains them: see `netpol-agent help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    netpol_agent::cli::main()
}
