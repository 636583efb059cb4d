//! netpol-cni.
fn main() {}
