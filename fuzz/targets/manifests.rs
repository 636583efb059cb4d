//! See [`netpol_fuzz::manifests`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| netpol_fuzz::manifests::check(bytes));
