//! Active health checks: periodic connections to every backend of a mapping.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::backends::Backend;
use crate::config::{ProxyProtocol, Rules};
use crate::fault::Fault;
use crate::mapping::Mapping;
use crate::proxy;

const LONGEST_STATUS: usize = 512;

/// Checks until it is aborted.
pub(crate) async fn run(mapping: Arc<Mapping>) {
    loop {
        let config = mapping.config();
        let interval = config.rules.check_interval;
        if interval.is_zero() {
            mapping.set.unchecked();
            mapping.reconfigured.notified().await;
            continue;
        }
        round(&mapping, &config.rules).await;
        if !Arc::ptr_eq(&config, &mapping.config()) {
            continue; // replaced meanwhile
        }
        tokio::select! {
            () = sleep(interval) => {}
            () = mapping.reconfigured.notified() => {}
        }
    }
}

/// Checks all backends at once, which takes no longer than the time limit of one.
async fn round(mapping: &Arc<Mapping>, rules: &Rules) {
    let mut checks = JoinSet::new();
    let shared = Arc::new(rules.clone());
    for backend in mapping.set.backends() {
        let rules = Arc::clone(&shared);
        checks.spawn(async move {
            let checked = timeout(rules.check_timeout, check(&backend, &rules)).await;
            let too_late =
                |_| Err(io::Error::new(ErrorKind::TimedOut, "no answer within health_check_timeout_seconds"));
            (backend, checked.unwrap_or_else(too_late))
        });
    }
    while let Some(done) = checks.join_next().await {
        let Ok((backend, result)) = done else { continue };
        // A machine that has no file for a check knows nothing of the backend.
        if !result.as_ref().is_err_and(|error| Fault::of(error) == Fault::Machine) {
            mapping.set.checked(&backend, result.map_err(|error| error.to_string()), rules);
        }
    }
}

/// A backend is fit if it takes a connection and, where it is asked over HTTP, says so. One that expects PROXY protocol headers
/// gets one that says that no client is behind it.
async fn check(backend: &Backend, rules: &Rules) -> io::Result<()> {
    let (address, port) = (backend.address, rules.check_http_port);
    if address.port() != port {
        let began = Instant::now();
        connect(address, rules).await?;
        backend.connect_time.note(began.elapsed());
    }
    if port == 0 {
        return Ok(());
    }
    let address = SocketAddr::new(address.ip(), port);
    let mut stream = connect(address, rules).await?;
    let path = &rules.check_http_path;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: jmqt-lb\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let status = status(&mut stream).await?;
    let code = status.split(' ').nth(1).unwrap_or_default();
    if status.starts_with("HTTP/1.") && code.len() == 3 && code.starts_with('2') {
        return Ok(());
    }
    Err(io::Error::other(format!("GET {path} on port {port} returned {status:?}")))
}

async fn connect(address: SocketAddr, rules: &Rules) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    if rules.proxy_protocol == ProxyProtocol::V2 {
        stream.try_write(&proxy::local_header())?;
    }
    Ok(stream)
}

/// The first line of an answer, or what there is of it.
async fn status(stream: &mut TcpStream) -> io::Result<String> {
    let (mut line, mut part) = (Vec::new(), [0; 128]);
    while line.len() < LONGEST_STATUS && !line.contains(&b'\n') {
        match stream.read(&mut part).await? {
            0 => break,
            count => line.extend_from_slice(&part[..count]),
        }
    }
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim_end().to_owned())
}
