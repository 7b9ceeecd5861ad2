//! Opening a connection: TCP and the HTTP upgrade.

use std::{net::TcpStream, time::Duration};

use mio::net::TcpStream as NonBlocking;

/// For the upgrade, during which reads block.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn open(port: u16) -> Result<NonBlocking, String> {
    let tcp = connect(port).map_err(|e| format!("connecting to port {port}: {e}"))?;
    let request = format!("ws://127.0.0.1:{port}/");
    let (websocket, _) = tungstenite::client(request, tcp)
        .map_err(|e| format!("the upgrade on port {port}: {e}"))?;
    let tcp = websocket.into_inner();
    tcp.set_nonblocking(true).map_err(|e| format!("a socket that does not block: {e}"))?;
    Ok(NonBlocking::from_std(tcp))
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}
