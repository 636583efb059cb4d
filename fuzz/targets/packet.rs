//! See [`netpol_fuzz::packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netpol_fuzz::packet::check(bytes));
