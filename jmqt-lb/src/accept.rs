//! Listeners, and the loops that accept from them.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::balancer::Shared;
use crate::connection::{self, Connection};
use crate::forward::Flow;
use crate::mapping::Mapping;

/// Connections that may wait in the kernel.
const BACKLOG: i32 = 4096;
/// How long to wait after an error that the next try would only meet again, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds and listens.
///
/// # Errors
/// The address is taken, is not this machine's, or may not be used.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?; // connections of an earlier process may linger
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until `stop` is dropped or told; then accepts what the kernel has completed before, because
/// closing the listener would reset it, and ends.
///
/// At the limit of connections nothing is accepted: clients wait in the kernel for one that ends.
pub(crate) async fn accept(
    listener: TcpListener,
    mapping: Arc<Mapping>,
    shared: Arc<Shared>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = next(&listener, &mapping, &shared) => accepted,
        };
        let error = match accepted {
            Ok((stream, client)) => {
                is_failing = false;
                hand_over(stream, client, &mapping, &shared);
                continue;
            }
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) {
            continue; // of that one client only
        }
        if !std::mem::replace(&mut is_failing, true) {
            warn!(mapping = %mapping.name, %error, "Cannot accept; trying again");
        }
        tokio::select! {
            _ = &mut stop => break,
            () = sleep(PAUSE) => {}
        }
    }
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..BACKLOG {
        if shared.gate.is_full() || mapping.gate.is_full() {
            return;
        }
        let Ok((stream, client)) = listener.accept() else { return };
        hand_over(stream, client, &mapping, &shared);
    }
}

/// Waits for a client and a place for it.
async fn next(
    listener: &TcpListener,
    mapping: &Mapping,
    shared: &Shared,
) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    loop {
        shared.gate.has_room().await;
        mapping.gate.has_room().await;
        let accepted = poll_fn(|cx| {
            // By the time a client is there, those of other mappings may have taken the last place.
            if shared.gate.is_full() || mapping.gate.is_full() {
                return Poll::Ready(None);
            }
            listener.poll_accept(cx).map(Some)
        });
        if let Some(accepted) = accepted.await {
            // It goes to a thread that has an epoll of its own.
            return accepted.and_then(|(stream, client)| Ok((stream.into_std()?, client)));
        }
    }
}

/// Has a backend found for it, beside everything else.
fn hand_over(stream: std::net::TcpStream, peer: SocketAddr, mapping: &Arc<Mapping>, shared: &Shared) {
    if let Err(error) = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)) {
        return debug!(mapping = %mapping.name, client = %peer, %error, "Client gone");
    }
    mapping.counters.accepted.fetch_add(1, Ordering::Relaxed);
    let connection = Connection {
        peer,
        mapping: Arc::clone(mapping),
        config: mapping.config(),
        buffer_size: shared.buffer_size.load(Ordering::Relaxed),
        tried: Vec::new(),
        ways: Arc::clone(&shared.workers.ways),
        _places: [shared.gate.enter(), mapping.gate.enter()],
    };
    tokio::spawn(connection::serve(connection, TcpStream::from_std(stream), Flow::default()));
}
