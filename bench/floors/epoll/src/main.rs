//! Sends messages of a fixed size back as they are, on one thread and one
//! epoll: what a server on TCP cannot do without.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    process,
    process::ExitCode,
    thread,
};

use lexopt::prelude::*;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const USAGE: &str = "\
usage: floor --message BYTES

Sends messages of that size back, on 127.0.0.1. Prints its port and its process
id, and ends with its standard input.
";

/// Bytes asked for in one read, or what is left of a message if that is more.
const READ: usize = 128 << 10;

const LISTENER: Token = Token(usize::MAX);

fn main() -> ExitCode {
    match message_size() {
        Ok(None) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Some(message)) => match serve(message) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e.to_string()),
        },
        Err(e) => fail(&e.to_string()),
    }
}

fn fail(what: &str) -> ExitCode {
    eprintln!("floor: {what}");
    ExitCode::FAILURE
}

fn message_size() -> Result<Option<usize>, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut message = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("message") => message = Some(parser.value()?.parse()?),
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    match message {
        Some(0) => Err("--message must be at least 1".into()),
        Some(message) => Ok(Some(message)),
        None => Err("--message is missing".into()),
    }
}

fn serve(message: usize) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{} {} epoll", listener.local_addr()?.port(), process::id());
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });

    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            let slot = &mut connections[event.token().0];
            if let Some(connection) = slot
                && !connection.go_on(message)
            {
                *slot = None;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        socket.set_nodelay(true)?;
        let token = Token(connections.len());
        poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        connections.push(Some(Connection {
            socket,
            buffer: Vec::new(),
            filled: 0,
            whole: 0,
            ending: false,
        }));
    }
}

struct Connection {
    socket: TcpStream,
    /// What has been read and not yet sent back, up to `filled`; of it so many
    /// bytes belong to messages that are whole.
    buffer: Vec<u8>,
    filled: usize,
    whole: usize,
    ending: bool,
}

impl Connection {
    /// Says whether the connection is still there.
    fn go_on(&mut self, message: usize) -> bool {
        match self.echo(message) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => !(self.ending && self.filled == 0),
            Err(_) => false,
        }
    }

    fn echo(&mut self, message: usize) -> io::Result<()> {
        // What an earlier event could not send.
        self.send()?;
        loop {
            let ask = READ.max(message - (self.filled - self.whole));
            if self.buffer.len() < self.filled + ask {
                self.buffer.resize(self.filled + ask, 0);
            }
            let n = match self.socket.read(&mut self.buffer[self.filled..self.filled + ask]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            if n == 0 {
                self.ending = true;
                return Err(ErrorKind::WouldBlock.into());
            }
            self.filled += n;
            self.whole += (self.filled - self.whole) / message * message;
            self.send()?;
            // A short read has emptied the socket.
            if n < ask {
                return Ok(());
            }
        }
    }

    /// Sends the messages that are whole.
    fn send(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.whole {
                break Ok(());
            }
            match self.socket.write(&self.buffer[sent..self.whole]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.buffer.copy_within(sent..self.filled, 0);
        self.filled -= sent;
        self.whole -= sent;
        result
    }
}
