//! Fuzz targets for the core: functions that take any bytes, and panic where the core does not do what is
//! promised of it.
//!
//! An input is read from its front, byte by byte, by [`source`]: first what is set up, then what happens. So an
//! input can be written by hand ([`seeds`]), and a part that is cut off or changed leaves the rest in place. Small
//! inputs stand for large messages: a payload is described, not spelled out.
//!
//! What is expected is computed by other code than what is tested: frames by [`wire`], what has to come of them by
//! [`model`], deflate by [`inflate`].

pub mod feed;
pub mod inflate;
pub mod meter;
pub mod model;
pub mod seeds;
pub mod seen;
pub mod setup;
pub mod side;
pub mod source;
pub mod target;
pub mod wire;
