//! Two connections that talk to each other, one step at a time.

use std::ops::{Deref, DerefMut};

use super::drive::{Seen, drain};
use crate::connection::{Config, Connection, Role};

/// One of two connections, and what it has told so far.
pub struct Side {
    connection: Connection,
    seen: Vec<Seen>,
}

impl Side {
    fn new(config: Config) -> Side {
        Side { connection: Connection::new(config), seen: vec![] }
    }

    /// What it has told since this was last asked.
    pub fn seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.connection.receive(bytes);
        self.seen.extend(drain(&mut self.connection));
    }
}

impl Deref for Side {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Side {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// A client, which masks, and a server.
pub struct Pair {
    pub client: Side,
    pub server: Side,
}

impl Pair {
    pub fn new() -> Pair {
        Pair::with(Config::default())
    }

    /// Both sides with this configuration, but for role and mask.
    pub fn with(config: Config) -> Pair {
        let client = Config { role: Some(Role::Client), masked: true, ..config };
        let server = Config { role: Some(Role::Server), masked: false, ..config };
        Pair { client: Side::new(client), server: Side::new(server) }
    }

    /// Moves the output of each side to the other at the same time, so that what they send may
    /// cross. Returns whether there was any.
    pub fn step(&mut self) -> bool {
        let (to_server, to_client) = (self.client.take_output(), self.server.take_output());
        self.server.take_in(&to_server);
        self.client.take_in(&to_client);
        !to_server.is_empty() || !to_client.is_empty()
    }

    /// Steps until both sides are silent.
    pub fn settle(&mut self) {
        while self.step() {}
    }
}
