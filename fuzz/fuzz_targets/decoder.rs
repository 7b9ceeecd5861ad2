//! See `aews_fuzz::target::decoder`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aews_fuzz::target::decoder::run(data));
