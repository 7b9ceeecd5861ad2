//! The C ABI: every function of `perl/aews.h`, where each is documented.
//!
//! The types come from the header by bindgen, and `ffi_fn!`, the only way to export, compares each
//! function with its declaration there: where the two differ, the crate does not compile.
#![allow(unsafe_code)]
#![allow(missing_docs)] // perl/aews.h is the documentation

/// The types and constants of the header.
#[allow(non_camel_case_types, non_upper_case_globals)]
pub mod abi {
    include!(concat!(env!("OUT_DIR"), "/abi_types.rs"));
}

/// The functions as the header declares them.
mod declared {
    use super::abi::*;
    include!(concat!(env!("OUT_DIR"), "/abi_functions.rs"));
}

mod conn;
mod event;
mod extension;
mod frame;
mod guard;
mod http;
mod random;
mod socket;

pub use conn::*;
pub use event::*;
pub use extension::*;
pub use frame::*;
pub use http::*;
pub use random::*;
pub use socket::*;

#[cfg(test)]
mod panic_tests;
#[cfg(test)]
mod tests;
