//! `jmqtd health`: asks a running broker whether it is well.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use jmqt_server::{BoxError, Config};

use crate::settings::Settings;

/// How long connecting, and each read and write, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than an answer has.
const MOST_BYTES: u64 = 4096;

/// Asks the broker that has this configuration.
pub(crate) fn ask(file: &Path) -> Result<(), BoxError> {
    let Settings { server, .. } = Settings::load(file)?;
    let address = match server.bind_address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    match (server.websocket_port, other_port(&server)) {
        (Some(port), _) => healthz(SocketAddr::new(address, port)),
        (None, Some(port)) => connect(SocketAddr::new(address, port)).map(drop),
        (None, None) => Err("the configuration has no port".into()),
    }
}

/// A port that is no plain WebSocket.
fn other_port(server: &Config) -> Option<u16> {
    let ssl = server.ssl.as_ref();
    let encrypted =
        ssl.map(|ssl| [ssl.websocket_port, ssl.socket_port, ssl.mqtt_port, ssl.mqtt_websocket_port]);
    let plain = [server.socket_port, server.mqtt_port, server.mqtt_websocket_port];
    plain.into_iter().chain(encrypted.into_iter().flatten()).flatten().next()
}

fn connect(address: SocketAddr) -> Result<TcpStream, BoxError> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE);
    stream.map_err(|error| format!("cannot connect to {address}: {error}").into())
}

fn healthz(address: SocketAddr) -> Result<(), BoxError> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    // Some answers end without the connection, others with a reset behind them.
    let _ = stream.take(MOST_BYTES).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        Some(status) => {
            let reason = answer.lines().last().unwrap_or_default();
            Err(format!("{address} answers {status}: {reason}").into())
        }
        None => Err(format!("{address} does not answer").into()),
    }
}
