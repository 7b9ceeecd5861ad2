//! Opening a connection: TCP, perhaps TLS, and the HTTP upgrade.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Type};

use crate::{
    args::{Args, Wire},
    tls::{self, Tls},
    upgrade::Upgrade,
};

/// For TCP, TLS and the upgrade together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections from one address; a host has no more than some 28,000 ports to
/// give for one, and those of past connections are not free at once.
const PER_ADDRESS: u64 = 2000;

const ADDRESSES: u64 = 200;

pub enum Socket {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Socket {
    pub fn register(&mut self, registry: &Registry, token: Token) -> Result<(), String> {
        registry
            .register(self.tcp(), token, Interest::READABLE | Interest::WRITABLE)
            .map_err(|e| format!("epoll: {e}"))
    }

    /// Whether a read that came back short has emptied it.
    pub fn short_is_empty(&self) -> bool {
        matches!(self, Socket::Plain(_))
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) -> io::Result<()> {
        self.tcp().shutdown(Shutdown::Write)
    }

    fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => &mut tls.socket,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.read(buffer),
            Socket::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.write(bytes),
            Socket::Tls(tls) => tls.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => tcp.write_vectored(slices),
            // It would only be copied.
            Socket::Tls(tls) => match slices.iter().find(|slice| !slice.is_empty()) {
                Some(slice) => tls.write(slice),
                None => Ok(0),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(_) => Ok(()),
            Socket::Tls(tls) => tls.flush(),
        }
    }
}

/// Opens connections, one after the other.
pub struct Opener {
    port: u16,
    wire: Wire,
    tls: Option<Arc<ClientConfig>>,
    opened: u64,
}

impl Opener {
    pub fn new(args: &Args) -> Result<Self, String> {
        let tls = if args.tls { Some(tls::config()?) } else { None };
        Ok(Opener { port: args.port, wire: args.wire, tls, opened: 0 })
    }

    pub fn upgrade(&self) -> Upgrade {
        Upgrade::new(self.port, self.wire == Wire::Deflate)
    }

    /// A connection that may not be there yet.
    pub fn begin(&mut self) -> Result<Socket, String> {
        let tcp = self.connect().map_err(|e| format!("connecting to port {}: {e}", self.port))?;
        let socket = match &self.tls {
            Some(config) => Socket::Tls(Box::new(Tls::new(config, tcp)?)),
            None => Socket::Plain(tcp),
        };
        self.opened += 1;
        Ok(socket)
    }

    /// A connection that is ready for messages.
    pub fn open(&mut self) -> Result<Socket, String> {
        let mut socket = self.begin()?;
        if self.wire != Wire::Raw {
            let mut upgrade = self.upgrade();
            let done = Waiting::begin(&mut socket).and_then(|mut waiting| {
                waiting.write(&upgrade.request)?;
                while !upgrade.feed(waiting.read()?)? {}
                Ok(())
            });
            done.map_err(|what| format!("the upgrade on port {}: {what}", self.port))?;
        }
        Ok(socket)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.opened >= PER_ADDRESS {
            // The first ones come from the address that they go to.
            let host = 1 + (self.opened / PER_ADDRESS % ADDRESSES) as u8;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into())?;
        }
        let to = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port));
        match socket.connect(&to.into()) {
            // EINPROGRESS, which has no kind of its own on stable Rust.
            Err(e) if e.raw_os_error() != Some(115) => return Err(e),
            _ => {}
        }
        Ok(TcpStream::from_std(socket.into()))
    }
}

/// Reads and writes that wait.
pub struct Waiting<'a> {
    socket: &'a mut Socket,
    until: Instant,
    buffer: [u8; 4096],
}

impl<'a> Waiting<'a> {
    /// Once the connection is there.
    pub fn begin(socket: &'a mut Socket) -> Result<Self, String> {
        let mut waiting = Waiting { socket, until: Instant::now() + PATIENCE, buffer: [0; 4096] };
        waiting.retry(|waiting| match waiting.socket.tcp().peer_addr() {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => {
                // It failed, if it does not only take its time.
                waiting
                    .socket
                    .tcp()
                    .take_error()?
                    .map_or(Err(io::ErrorKind::WouldBlock.into()), Err)
            }
            other => other.map(drop),
        })?;
        Ok(waiting)
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let taken = self.retry(|waiting| waiting.socket.write(bytes))?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    pub fn read(&mut self) -> Result<&[u8], String> {
        let n = self.retry(|waiting| {
            waiting.socket.flush()?;
            waiting.socket.read(&mut waiting.buffer)
        })?;
        if n == 0 {
            return Err("the server ended the connection".into());
        }
        Ok(&self.buffer[..n])
    }

    fn retry<T>(
        &mut self,
        mut action: impl FnMut(&mut Self) -> io::Result<T>,
    ) -> Result<T, String> {
        loop {
            match action(self) {
                Ok(value) => return Ok(value),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e.to_string()),
                Err(_) if Instant::now() >= self.until => {
                    return Err(format!("nothing for {} s", PATIENCE.as_secs()));
                }
                Err(_) => sleep(Duration::from_micros(20)),
            }
        }
    }
}
