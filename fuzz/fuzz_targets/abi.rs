//! See `aews_fuzz::target::abi`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aews_fuzz::target::abi::run(data));
