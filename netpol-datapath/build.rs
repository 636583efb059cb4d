//! Builds the eBPF programs into `$OUT_DIR/netpol-ebpf`; `object::loader` embeds the file.
#![forbid(unsafe_code)]

use anyhow::Result;

#[path = "../netpol-ebpf/object.rs"]
mod object;

fn main() -> Result<()> {
    object::embed("netpol-ebpf", &["netpol-ebpf", "netpol-common"])
}
