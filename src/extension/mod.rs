//! Extensions: what RFC 6455 section 9 leaves to others. There is one, permessage-deflate (RFC 7692).

pub mod deflate;
pub mod header;
pub mod negotiation;
