//! Builds the eBPF programs into `$OUT_DIR/netpol-ebpf`, from where `load` embeds them.

use anyhow::Result;

#[path = "../netpol-ebpf/object.rs"]
mod object;

fn main() -> Result<()> {
    object::embed("netpol-ebpf", &["netpol-ebpf", "netpol-common"])
}
