//! Tests of [`Connection`](super::Connection) without sockets, threads or sleeps: bytes go in, what
//! comes out is compared.
//!
//! Frames are encoded and decoded by [`wire`], which shares no code with what is tested. What has a
//! defined outcome is fed in every way that [`drive`] knows (whole, one byte at a time, split at
//! every position, through both entrances), since where the network cuts must never show.

mod closing;
mod control;
mod conversation;
mod deflate;
pub(crate) mod drive;
mod limits;
mod messages;
mod pair;
mod random;
mod sending;
mod utf8;
mod violations;
pub(crate) mod wire;
