//! What a connection is set up with.

use aews::connection::{Config, Connection, Role};
use aews::extension::deflate::{self, Direction};

use crate::source::Source;

/// A configuration, and whether messages may be compressed.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// That of the connection.
    pub config: Config,
    /// What is agreed upon for permessage-deflate.
    pub deflate: Option<deflate::Config>,
}

/// The bits of a setup's first byte; the lowest two are the role: 1 client, 2 server.
pub const MASKED: u8 = 4;
/// See [`MASKED`].
pub const NO_UTF8: u8 = 8;
/// See [`MASKED`].
pub const DEFLATE: u8 = 16;
/// See [`MASKED`].
pub const NO_INCOMING_TAKEOVER: u8 = 32;
/// See [`MASKED`].
pub const NO_OUTGOING_TAKEOVER: u8 = 64;

impl Setup {
    /// Reads one.
    pub fn read(source: &mut Source<'_>) -> Setup {
        let bits = source.byte();
        let role = match bits & 3 {
            1 => Some(Role::Client),
            2 => Some(Role::Server),
            _ => None,
        };
        let config = Config {
            role,
            masked: bits & MASKED != 0,
            validate_utf8: bits & NO_UTF8 == 0,
            max_payload_size: limit(source),
            max_fragments: limit(source) as u32,
            max_message_size: limit(source),
        };
        let deflate = (bits & DEFLATE != 0).then(|| {
            let (window, threshold) = (source.byte(), source.byte());
            let context_takeover = |bit| bits & bit == 0;
            deflate::Config {
                outgoing: Direction {
                    window_bits: 8 + (window & 7),
                    context_takeover: context_takeover(NO_OUTGOING_TAKEOVER),
                },
                incoming: Direction {
                    window_bits: 15,
                    context_takeover: context_takeover(NO_INCOMING_TAKEOVER),
                },
                level: (window >> 3) % 10,
                threshold: threshold.into(),
            }
        });
        Setup { config, deflate }
    }

    /// A connection that is set up like this.
    pub fn connection(&self) -> Connection {
        let mut connection = Connection::new(self.config);
        if let Some(deflate) = &self.deflate {
            connection.use_deflate(deflate);
        }
        connection
    }
}

/// A limit: small ones in one byte, some that mean something, any other that two bytes hold.
fn limit(source: &mut Source<'_>) -> u64 {
    const LARGE: [u64; 8] =
        [1000, 16_384, 32_768, 65_535, 65_536, 1 << 20, u64::MAX >> 1, u64::MAX];
    match source.byte() {
        small @ 0..=199 => small.into(),
        large @ 200..=239 => LARGE[usize::from(large) % LARGE.len()],
        _ => source.number().into(),
    }
}
