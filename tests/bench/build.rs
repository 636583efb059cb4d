//! Builds the reference programs of the benchmarks into `$OUT_DIR/reference-ebpf`.
#![forbid(unsafe_code)]

use anyhow::Result;

#[path = "../../netpol-ebpf/object.rs"]
mod object;

fn main() -> Result<()> {
    object::embed("reference-ebpf", &["reference-ebpf"], &["tests/reference-ebpf"])
}
