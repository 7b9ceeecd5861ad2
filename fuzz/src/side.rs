//! A connection that is commanded, with what it has to have sent, and be, after each command.

use aews::connection::error::{Error, Misuse};
use aews::connection::{Begun, Connection, FrameKind};

use crate::feed;
use crate::inflate::Inflate;
use crate::meter::Meter;
use crate::model;
use crate::seen::{self, Seen, code_of, is_sendable};
use crate::setup::Setup;
use crate::source::Source;
use crate::wire::*;

/// A frame that has to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its opcode.
    pub opcode: u8,
    /// Its payload, before it is compressed.
    pub payload: Bytes,
    /// Whether it is.
    pub compressed: bool,
}

/// A connection, and what is known of it.
pub struct Side {
    connection: Connection,
    /// How it was set up.
    pub setup: Setup,
    /// What it has got from the peer while it was reading.
    pub fed: Vec<u8>,
    /// What it has told.
    pub told: Vec<Seen>,
    /// What it has to have sent.
    pub due: Vec<Due>,
    /// What has left it.
    pub wire: Vec<u8>,
    reading: bool,
    writable: bool,
    clean: bool,
    /// Poisoned with this, which has not been told yet.
    poison: Option<String>,
    /// The code by which a Close frame that was wrong has been answered, until its failure is told.
    answered: Option<u16>,
    /// Whether it ended by a command rather than by what the peer sent.
    pub ended_early: bool,
    /// Whether there was a poisoning: what is told then is not the peer's doing.
    was_poisoned: bool,
}

impl Side {
    /// A fresh one.
    pub fn new(setup: Setup) -> Side {
        Side {
            connection: setup.connection(),
            setup,
            fed: vec![],
            told: vec![],
            due: vec![],
            wire: vec![],
            reading: true,
            writable: true,
            clean: false,
            poison: None,
            answered: None,
            ended_early: false,
            was_poisoned: false,
        }
    }

    /// Whether it looks at what comes.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Asserts that the connection knows about itself what is known here.
    fn check(&self) {
        let connection = &self.connection;
        assert_eq!(connection.is_reading(), self.reading, "is_reading");
        assert_eq!(connection.is_writable(), self.writable, "is_writable");
        assert_eq!(connection.was_clean(), self.clean, "was_clean");
        assert_eq!(connection.role(), self.setup.config.role, "role");
    }

    fn compresses(&self, opcode: u8, len: usize) -> bool {
        self.setup.deflate.is_some_and(|deflate| {
            let is_message = opcode == TEXT || opcode == BINARY;
            is_message && len > 0 && len >= deflate.threshold && deflate.outgoing.window_bits > 8
        })
    }

    fn owe(&mut self, opcode: u8, payload: &[u8]) {
        let compressed = self.compresses(opcode, payload.len());
        self.due.push(Due { opcode, payload: payload.into(), compressed });
        self.writable &= opcode != CLOSE;
    }

    fn owe_close(&mut self, body: &[u8]) {
        if self.writable {
            self.owe(CLOSE, body);
        }
    }

    /// [`Connection::send`].
    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        let expected = match (opcode, self.writable) {
            (16.., _) => Err(Misuse::Opcode(opcode)),
            (_, writable) => Ok(writable),
        };
        assert_eq!(self.connection.send(opcode, payload), expected, "send");
        if expected == Ok(true) {
            self.owe(opcode, payload);
        }
        self.check();
    }

    /// [`Connection::begin_frame`], and what its caller does then.
    pub fn send_apart(&mut self, opcode: u8, payload: &[u8]) {
        let len = payload.len();
        let kind = self.connection.frame_kind(opcode, len);
        let compresses = self.compresses(opcode, len);
        let own = self.setup.config.masked || !self.writable || opcode == CLOSE || opcode > 15;
        match kind {
            None => {
                let takeover = |deflate: aews::extension::deflate::Config| {
                    compresses && deflate.outgoing.context_takeover
                };
                assert!(own || self.setup.deflate.is_some_and(takeover), "no kind of frame");
            }
            Some(FrameKind::Plain) => assert!(!own && !compresses, "a plain frame"),
            Some(FrameKind::Compressed(_)) => assert!(!own && compresses, "a compressed frame"),
        }
        match self.connection.begin_frame(opcode, len) {
            Ok(Begun::Frame(start)) => {
                assert!(self.writable && opcode < 16 && !compresses, "begin_frame");
                self.owe(opcode, payload);
                self.take();
                self.wire.extend(start.header.as_ref());
                match start.key {
                    Some(key) => key.append(payload, &mut self.wire),
                    None => self.wire.extend(payload),
                }
            }
            Ok(Begun::Compressed) => {
                assert!(self.writable && compresses, "a message that is not compressed");
                self.send(opcode, payload);
            }
            Ok(Begun::Closed) => assert!(!self.writable, "begin_frame says it is closed"),
            Err(error) => assert_eq!((opcode > 15, error), (true, Misuse::Opcode(opcode))),
        }
        self.check();
    }

    /// [`Connection::close`].
    pub fn close(&mut self, code: u16, reason: &[u8]) {
        let valid = is_sendable(code) && reason.len() <= 123 && std::str::from_utf8(reason).is_ok();
        match self.connection.close(code, reason) {
            Ok(queued) => {
                assert_eq!((valid, queued), (true, self.writable), "close({code})");
                self.owe_close(&[&code.to_be_bytes(), reason].concat());
            }
            Err(error) => assert!(!valid && !error.to_string().is_empty(), "close: {error}"),
        }
        self.check();
    }

    /// [`Connection::fail`].
    pub fn fail(&mut self, error: Error) {
        let code = code_of(&error);
        self.connection.fail(error);
        (self.reading, self.clean, self.poison) = (false, false, None);
        self.ended_early = true;
        self.owe_close(&code.to_be_bytes());
        self.check();
    }

    /// [`Connection::finish`].
    pub fn finish(&mut self) {
        self.connection.finish();
        (self.reading, self.writable) = (false, false);
        self.ended_early = true;
        self.check();
    }

    /// [`Connection::poison`].
    pub fn poison(&mut self, text: &str) {
        self.connection.poison(text.to_owned());
        (self.reading, self.clean) = (false, false);
        self.poison = Some(text.to_owned());
        (self.ended_early, self.was_poisoned) = (true, true);
        self.owe_close(&1011_u16.to_be_bytes());
        self.check();
    }

    /// [`Connection::release_compressor`].
    pub fn release(&mut self) {
        self.connection.release_compressor();
        self.check();
    }

    /// [`Connection::consume_output`], `n` bytes or all.
    pub fn consume(&mut self, n: usize) {
        let output = self.connection.output();
        let n = n.min(output.len());
        self.wire.extend(&output[..n]);
        self.connection.consume_output(n);
        self.check();
    }

    /// [`Connection::take_output`].
    pub fn take(&mut self) {
        let expected = self.connection.output().to_vec();
        let taken = self.connection.take_output();
        assert!(taken == expected && self.connection.output().is_empty(), "take_output");
        self.wire.extend(taken);
        self.check();
    }

    /// Hands in bytes of the peer's.
    pub fn feed(&mut self, bytes: &[u8], socket: bool) {
        if self.reading {
            self.fed.extend(bytes);
        }
        if socket {
            feed::through_socket(&mut self.connection, bytes, |_| {});
        } else {
            self.connection.receive(bytes);
        }
        self.check();
    }

    /// [`Connection::next_event`]. Returns whether there was one.
    pub fn next_event(&mut self) -> bool {
        let Some(seen) = seen::next(&mut self.connection) else {
            assert_eq!(self.poison, None, "not told");
            self.check();
            return false;
        };
        match &seen {
            Seen::Message(..) | Seen::Pong(_) => assert!(self.reading, "{seen:?} after the end"),
            Seen::Ping(body) => {
                assert!(self.reading, "{seen:?} after the end");
                if self.writable {
                    self.owe(PONG, &body.0.clone());
                }
            }
            Seen::Close(code, _) => {
                assert!(self.reading, "{seen:?} after the end");
                self.reading = false;
                // What exactly the frame said is the model's; here its answer.
                let body = code.map_or(vec![], |code| code.to_be_bytes().to_vec());
                self.answer_close(&body);
            }
            Seen::Failed(error) => {
                if let Some(code) = self.answered.take().filter(|_| !self.ended_early) {
                    assert_eq!(code_of(error), code, "code of the answer to a Close frame");
                }
                let own = self.poison.take().map(Error::Internal);
                assert!(own.is_none_or(|own| own == *error), "{error:?} after a panic");
                (self.reading, self.clean) = (false, false);
                self.owe_close(&code_of(error).to_be_bytes());
            }
        }
        self.check();
        self.told.push(seen);
        true
    }

    /// The connection tells by what it sends whether the peer's Close frame was valid; [`Side::finally`] compares
    /// that with what is told next.
    fn answer_close(&mut self, body: &[u8]) {
        self.clean = self.connection.was_clean();
        if self.writable {
            let answer = if self.clean {
                body.to_vec()
            } else {
                // 1002 or 1007, by what is told next.
                let frames = decode(&self.unsent(), self.setup.config.masked);
                let body = frames.last().expect("an answer").payload.0.clone();
                self.answered = Some(u16::from_be_bytes([body[0], body[1]]));
                body
            };
            self.owe_close(&answer);
        }
    }

    /// What is not consumed yet of the frames that are due, from the first byte of one.
    fn unsent(&self) -> Vec<u8> {
        let all = [&self.wire, self.connection.output()].concat();
        let mut rest = &all[..];
        while let (Some(_), Some(behind)) = split_frame(rest, self.setup.config.masked) {
            if behind.is_empty() {
                break;
            }
            rest = behind;
        }
        rest.to_vec()
    }

    /// All events.
    pub fn drain(&mut self) {
        while self.next_event() {}
    }

    /// Asserts all that has to be true in the end, when everything has been told and sent.
    pub fn finally(&mut self, meter: &Meter) {
        self.drain();
        self.consume(usize::MAX);
        self.check_wire();
        if !self.ended_early {
            let clean = matches!(self.told.last(), Some(Seen::Close(..)));
            assert_eq!(self.clean, clean, "was_clean after {:?}", self.told.last());
        }
        if !self.was_poisoned {
            let deflate = self.setup.deflate.is_some();
            model::expect(&self.setup.config, deflate, &self.fed)
                .check(&self.told, self.ended_early);
        }
        // What a connection keeps that has nothing left to do is next to nothing.
        if !self.reading && !self.writable {
            let connection = std::mem::replace(&mut self.connection, self.setup.connection());
            let before = meter.read();
            drop(connection);
            if let (Some(before), Some(after)) = (before, meter.read()) {
                let freed = before.held - after.held;
                assert!(freed < 4096, "{freed} bytes were kept by a connection that has ended");
            }
        }
    }

    /// Asserts that what has left is what was due.
    fn check_wire(&self) {
        let masked = self.setup.config.masked;
        let deflate = self.setup.deflate;
        let mut inflate = deflate.map(|deflate| Inflate::new(deflate.outgoing.window_bits));
        let frames = decode(&self.wire, masked);
        for (frame, due) in frames.iter().zip(&self.due) {
            assert_eq!(frame.first & 0x8F, FIN | due.opcode, "first byte");
            let rsv = if due.compressed { RSV1 } else { 0 };
            assert_eq!(frame.first & 0x70, rsv, "reserved bits where compressed: {due:?}");
            if !due.compressed {
                assert_eq!(frame.payload, due.payload);
                continue;
            }
            let inflate = inflate.as_mut().expect("compressed only where agreed upon");
            let payload = inflate.message(&frame.payload.0, due.payload.0.len());
            assert_eq!(payload.map(Bytes), Ok(due.payload.clone()), "inflated");
            if deflate.is_some_and(|deflate| !deflate.outgoing.context_takeover) {
                inflate.reset();
            }
        }
        assert_eq!(frames.len(), self.due.len(), "frames sent, and due: {:?}", self.due);
    }

    /// One command that the program could give, read from the source.
    pub fn command(&mut self, source: &mut Source<'_>) {
        match source.byte() % 12 {
            0..=2 => {
                let (opcode, payload) = (source.byte() % 17, source.payload());
                self.send(opcode, &payload);
            }
            3 | 4 => {
                let (opcode, payload) = (source.byte() % 17, source.payload());
                self.send_apart(opcode, &payload);
            }
            5 => {
                let (code, reason) = (source.number(), source.payload());
                self.close(code, &reason);
            }
            6 => self.release(),
            7 => self.consume(source.byte().into()),
            8 => self.take(),
            9 => {
                self.next_event();
            }
            10 => self.drain(),
            _ => match source.byte() % 8 {
                0 => self.fail(Error::Internal("test".into())),
                1 => self.finish(),
                2 => self.poison("test"),
                _ => {}
            },
        }
    }
}
