//! Builds the eBPF programs into `$OUT_DIR/netpol-ebpf`, which `object::loader` embeds, and those of `object::kernel` into
//! `$OUT_DIR/feature-probe`.
#![forbid(unsafe_code)]

use anyhow::Result;

#[path = "../netpol-ebpf/object.rs"]
mod object;

fn main() -> Result<()> {
    let objects = ["netpol-ebpf", "feature-probe"];
    object::embed("netpol-ebpf", &objects, &["netpol-ebpf", "netpol-common"])
}
