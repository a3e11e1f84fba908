//! The status page: a small HTTP server that answers `/`, `/metrics` and `/healthz`, and closes.
//!
//! What it answers is in `render`.

mod render;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::shared::Shared;

/// Requests at once; one more ends the oldest, so that silent clients do not block others.
const REQUESTS: usize = 64;
const LONGEST_REQUEST: usize = 8 << 10;
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// The status page; it serves until it is dropped.
pub(crate) struct StatusPage {
    configured: SocketAddr,
    _task: JoinSet<()>,
}

impl StatusPage {
    /// Serves on `listener`, which was bound as `configured`.
    ///
    /// # Errors
    /// The system is out of descriptors, memory or watches.
    pub(crate) fn start(
        configured: SocketAddr,
        listener: std::net::TcpListener,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        info!("Status page on http://{}/", listener.local_addr()?);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, shared));
        Ok(Self { configured, _task: task })
    }

    /// The address in the file.
    pub(crate) const fn configured(&self) -> SocketAddr {
        self.configured
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut requests = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        while requests.try_join_next().is_some() {}
        by_age.retain(|request| !request.is_finished());
        if by_age.len() >= REQUESTS
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        let shared = Arc::clone(&shared);
        by_age.push_back(requests.spawn(async move {
            // A client that asks too slowly, or closes, gets no answer.
            let _ = timeout(LIMIT, answer(stream, &shared)).await;
        }));
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let request = read_head(&mut stream).await?;
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/") => ("200 OK", "text/plain; charset=utf-8", render::overview(shared)),
        ("GET" | "HEAD", "/metrics") => ("200 OK", "text/plain; version=0.0.4", render::metrics(shared)),
        ("GET" | "HEAD", "/healthz") => {
            let (is_healthy, body) = render::health(shared);
            let status = if is_healthy { "200 OK" } else { "503 Service Unavailable" };
            (status, "text/plain", body)
        }
        ("GET" | "HEAD", _) => {
            ("404 Not Found", "text/plain", "not found; try /, /metrics or /healthz\n".to_owned())
        }
        _ => ("405 Method Not Allowed", "text/plain", "only GET and HEAD\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nAllow: GET, HEAD\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// The request up to the empty line. A body would not be read.
async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut part).await?;
        if count == 0 || head.len() + count > LONGEST_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&part[..count]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
