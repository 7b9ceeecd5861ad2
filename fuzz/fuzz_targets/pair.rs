//! See `aews_fuzz::target::pair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aews_fuzz::target::pair::run(data));
