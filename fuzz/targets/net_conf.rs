//! See [`netpol_fuzz::net_conf`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netpol_fuzz::net_conf::check(bytes));
