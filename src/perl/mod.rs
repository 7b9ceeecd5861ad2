//! Perl values made in Rust, through libperl-sys, and the symbol by which Perl starts the library.
#![allow(unsafe_code)]
#![allow(missing_docs)] // perl/shim/shim.h is the documentation

mod boot;
mod message;
