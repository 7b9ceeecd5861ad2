//! See `aews_fuzz::target::connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aews_fuzz::target::connection::run(data));
