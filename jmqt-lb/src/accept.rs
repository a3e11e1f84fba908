//! Listeners, and the loops that accept from them.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::balancer::Shared;
use crate::connection::Connection;
use crate::mapping::Mapping;
use crate::worker;

/// Connections that may wait in the kernel, which has a limit of its own (`net.core.somaxconn`).
const BACKLOG: i32 = 65_535;
/// Connections that are accepted before other tasks of the thread get their turn.
const AT_A_TIME: usize = 256;
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

/// A bound address, twice: tokio says when clients are there, and mio takes them, as they go to threads that have
/// an epoll of their own.
pub(crate) struct Listener {
    waiting: tokio::net::TcpListener,
    accepting: TcpListener,
}

impl Listener {
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        let accepting = TcpListener::from_std(listener.try_clone()?);
        Ok(Self { waiting: tokio::net::TcpListener::from_std(listener)?, accepting })
    }
}

/// Accepts until `stop` is dropped or told; then accepts what the kernel has completed before, because
/// closing the listener would reset it, and ends.
///
/// At the limit of connections nothing is accepted: clients wait in the kernel for one that ends.
pub(crate) async fn accept(
    listener: Listener,
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
        let Err(error) = accepted else {
            is_failing = false;
            continue;
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
    for _ in 0..BACKLOG {
        if shared.gate.is_full() || mapping.gate.is_full() {
            return;
        }
        let Ok((stream, client)) = listener.accepting.accept() else { return };
        hand_over(stream, client, &mapping, &shared);
    }
}

/// Waits for clients and a place for them, and takes those that are there.
async fn next(listener: &Listener, mapping: &Arc<Mapping>, shared: &Shared) -> io::Result<()> {
    shared.gate.has_room().await;
    mapping.gate.has_room().await;
    let first = poll_fn(|cx| {
        // By the time a client is there, those of other mappings may have taken the last place.
        if shared.gate.is_full() || mapping.gate.is_full() {
            return Poll::Ready(None);
        }
        listener.waiting.poll_accept(cx).map(Some)
    });
    let Some(first) = first.await else { return Ok(()) };
    let (stream, client) = first?;
    hand_over(TcpStream::from_std(stream.into_std()?), client, mapping, shared);
    for _ in 0..AT_A_TIME {
        if shared.gate.is_full() || mapping.gate.is_full() {
            return Ok(());
        }
        match listener.accepting.accept() {
            Ok((stream, client)) => hand_over(stream, client, mapping, shared),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    yield_now().await;
    Ok(())
}

/// Gives the client to a thread that finds it a backend.
fn hand_over(stream: TcpStream, peer: SocketAddr, mapping: &Arc<Mapping>, shared: &Shared) {
    if let Err(error) = stream.set_nodelay(true) {
        return debug!(mapping = %mapping.name, client = %peer, %error, "Client gone");
    }
    mapping.counters.accepted.fetch_add(1, Ordering::Relaxed);
    let connection = Connection {
        peer,
        mapping: Arc::clone(mapping),
        config: mapping.config(),
        buffer_size: shared.buffer_size.load(Ordering::Relaxed),
        tried: Vec::new(),
        _places: [shared.gate.enter(), mapping.gate.enter()],
    };
    if !mapping.set.is_empty() {
        return worker::forward(&shared.workers.ways, connection, stream);
    }
    let ways = Arc::clone(&shared.workers.ways);
    tokio::spawn(async move {
        connection.wait_for_backends().await;
        worker::forward(&ways, connection, stream);
    });
}
