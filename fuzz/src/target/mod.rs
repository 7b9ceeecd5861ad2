//! The targets.

pub mod abi;
pub mod connection;
pub mod decoder;
pub mod deflate;
pub mod handshake;
pub mod pair;

/// A target: its name, and what to call with each input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("decoder", decoder::run),
    ("connection", connection::run),
    ("pair", pair::run),
    ("deflate", deflate::run),
    ("handshake", handshake::run),
    ("abi", abi::run),
];
