//! Servers for measuring clients. They block, one connection after the other;
//! the work is the client's.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process, thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tungstenite::{
    handshake::derive_accept_key,
    protocol::frame::{
        FrameHeader,
        coding::{Data, OpCode},
    },
};

use crate::args::Args;

/// Bytes in one write of the flood.
const BATCH: usize = 128 << 10;

const PATIENCE: Duration = Duration::from_secs(20);

/// A Close frame with code 1000.
const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xE8];

/// Upgrades each connection and answers its Close frame.
pub fn accept() -> Result<Value, String> {
    let listener = listen().map_err(|e| e.to_string())?;
    for socket in listener.incoming() {
        // One that its client gave up is the client's to report.
        if let Err(e) = socket.and_then(|mut socket| {
            upgrade(&mut socket)?;
            close(&mut socket)
        }) {
            eprintln!("load: a client: {e}");
        }
    }
    Ok(Value::Null)
}

/// Sends without pause to one client: a text `begin` after the warm-up, which
/// the client answers with a message of its own once it has caught up, so that
/// nothing is on the way; then what counts, a text `end` with the number of
/// those messages, and Close.
pub fn flood(args: &Args) -> Result<Value, String> {
    let listener = listen().map_err(|e| e.to_string())?;
    let (mut socket, _) = listener.accept().map_err(|e| e.to_string())?;
    let count = upgrade(&mut socket)
        .and_then(|()| send(&mut socket, args))
        .map_err(|e| format!("the client: {e}"))?;
    Ok(serde_json::json!({ "count": count }))
}

fn send(socket: &mut TcpStream, args: &Args) -> io::Result<u64> {
    let message = frame(Data::Binary, &vec![b'x'; args.payload]);
    batches(socket, &message, args.warm_up)?;
    socket.write_all(&frame(Data::Text, b"begin"))?;
    read_some(socket, &mut [0; 256])?;
    let count = batches(socket, &message, args.measured)?;
    socket.write_all(&frame(Data::Text, format!("end {count}").as_bytes()))?;
    socket.write_all(&CLOSE)?;
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest)?;
    Ok(count)
}

fn batches(socket: &mut TcpStream, message: &[u8], duration: Duration) -> io::Result<u64> {
    let each = BATCH.div_ceil(message.len());
    let batch = message.repeat(each);
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < duration {
        socket.write_all(&batch)?;
        count += each as u64;
    }
    Ok(count)
}

fn frame(kind: Data, payload: &[u8]) -> Vec<u8> {
    let head = FrameHeader { opcode: OpCode::Data(kind), ..FrameHeader::default() };
    let mut frame = Vec::new();
    head.format(payload.len() as u64, &mut frame).expect("writing to memory does not fail");
    frame.extend_from_slice(payload);
    frame
}

/// Says which port, and sees to it that the process ends with its standard
/// input.
fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{} {} load", listener.local_addr()?.port(), process::id());
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
    Ok(listener)
}

fn upgrade(socket: &mut TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        let n = read_some(socket, &mut buffer)?;
        request.extend_from_slice(&buffer[..n]);
    }
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(&request).map_err(io::Error::other)?;
    let key = parsed.headers.iter().find(|f| f.name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    let key = key.ok_or_else(|| io::Error::other("a request without Sec-WebSocket-Key"))?;
    let accept = derive_accept_key(key.value);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes())
}

/// Takes the client's Close frame, of which only the head matters, and answers
/// it; the end of the connection is the server's first (RFC 6455, 7.1.1).
fn close(socket: &mut TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    let mut buffer = [0; 256];
    while received.len() < 2 || received.len() < 6 + usize::from(received[1] & 0x7F) {
        let n = read_some(socket, &mut buffer)?;
        received.extend_from_slice(&buffer[..n]);
    }
    if received[0] != 0x88 {
        return Err(io::Error::other(format!("not a Close frame: {received:02x?}")));
    }
    socket.write_all(&CLOSE)
}

fn read_some(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match socket.read(buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => Ok(n),
    }
}
