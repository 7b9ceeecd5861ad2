//! A WebSocket server on fastwebsockets and one thread that sends every
//! message back.

use std::{net::Ipv4Addr, process};

use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, upgrade};
use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, stdin},
    net::TcpListener,
    task::unconstrained,
};

const MOST: usize = 256 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), WebSocketError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{} {} fastwebsockets", listener.local_addr()?.port(), process::id());
    tokio::spawn(async {
        // Whoever started the server holds the other end.
        let _ = stdin().read(&mut [0]).await;
        process::exit(0);
    });
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async {
            let connection = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service_fn(answer))
                .with_upgrades();
            if let Err(e) = connection.await {
                eprintln!("fastwebsockets: {e}");
            }
        });
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgrading) = upgrade::upgrade(&mut request)?;
    // As in the crate's own example.
    tokio::spawn(unconstrained(async {
        if let Err(e) = echo(upgrading).await {
            eprintln!("fastwebsockets: {e}");
        }
    }));
    Ok(response)
}

async fn echo(upgrading: upgrade::UpgradeFut) -> Result<(), WebSocketError> {
    let mut websocket = upgrading.await?;
    websocket.set_max_message_size(MOST);
    let mut websocket = FragmentCollector::new(websocket);
    loop {
        let frame = websocket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => websocket.write_frame(frame).await?,
            _ => {}
        }
    }
}
