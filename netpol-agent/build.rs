//! Builds the eBPF programs into `$OUT_DIR/netpol-ebpf`, from where `ebpf` embeds them.
//!
//! Only with feature `ebpf`.

use std::env;

use anyhow::Result;

#[path = "../netpol-ebpf/object.rs"]
mod object;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return Ok(());
    }
    object::embed("netpol-ebpf", &["netpol-ebpf", "netpol-common"])
}
