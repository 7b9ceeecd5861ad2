//! See `aews_fuzz::target::deflate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aews_fuzz::target::deflate::run(data));
