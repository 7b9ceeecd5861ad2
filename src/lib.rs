//! The protocol core of `AnyEvent::WebSocket::Connection`: RFC 6455 framing, connection state and
//! socket IO.
//!
//! Dependencies point down only:
//!
//! | layer | what it is | knows |
//! |---|---|---|
//! | [`frame`] | header codec, masking, incremental UTF-8 | bytes |
//! | [`connection`] | sans-IO state machine: bytes in, events out; commands in, bytes out | `frame` |
//! | [`extension`] | permessage-deflate and its negotiation | bytes |
//! | [`handshake`] | the request of an opening handshake | bytes |
//! | `io` | receiving and sending on a connected descriptor | the operating system |
//! | `ffi` | the C ABI of `perl/aews.h` | `connection`, `io` |
//! | `perl` | Perl values made from events | `ffi`, libperl |
//!
//! Nothing below `ffi` and `perl` knows Perl, and the two are features of the crate: without them
//! (`--no-default-features`) neither Perl nor libclang is needed.
//!
//! Unsafe code is denied except in the modules that talk to the operating system, to C or to Perl.

pub mod block;
mod buffer;
pub mod connection;
pub mod extension;
pub mod frame;
pub mod handshake;
pub mod io;
pub mod process;

#[cfg(feature = "ffi")]
pub mod ffi;
#[cfg(feature = "perl")]
pub mod perl;
