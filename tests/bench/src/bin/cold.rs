//! One cold compile: see [`netpol_bench::cp::cold`].
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the time is its output")]

use anyhow::{Result, bail};
use clap::Parser;
use netpol_bench::cp::cold;
use netpol_bench::scale::Shape;

/// Compiles a generated cluster from scratch and prints the processor time, in milliseconds.
#[derive(Parser)]
struct Args {
    /// Namespaces, pods, policies, applications in each namespace, pods of the node.
    #[arg(num_args = 5, required = true)]
    numbers: Vec<usize>,
}

fn main() -> Result<()> {
    let [n_namespaces, n_pods, n_policies, n_apps, n_local] = Args::parse().numbers[..] else {
        bail!("a shape has five numbers");
    };
    let shape = Shape { n_namespaces, n_pods, n_policies, n_apps, n_local };
    println!("{}", cold::once(&shape)?);
    Ok(())
}
