//! A WebSocket server on tokio-tungstenite and one thread that sends every
//! message back.

use std::{net::Ipv4Addr, process};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, stdin},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Error, protocol::WebSocketConfig},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{} {} tokio-tungstenite", listener.local_addr()?.port(), process::id());
    tokio::spawn(async {
        // Whoever started the server holds the other end.
        let _ = stdin().read(&mut [0]).await;
        process::exit(0);
    });
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async {
            if let Err(e) = serve(socket).await {
                eprintln!("tokio-tungstenite: {e}");
            }
        });
    }
}

async fn serve(socket: TcpStream) -> Result<(), Error> {
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let mut websocket = accept_async_with_config(socket, Some(config)).await?;
    while let Some(message) = websocket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            websocket.send(message).await?;
        }
    }
    Ok(())
}
