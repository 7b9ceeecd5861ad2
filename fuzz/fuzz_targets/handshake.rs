//! See `aews_fuzz::target::handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aews_fuzz::target::handshake::run(data));
