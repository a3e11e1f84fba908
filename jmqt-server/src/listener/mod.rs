//! Sockets that accept connections: one loop for each listener, and what happens to a socket until it
//! is a session.

mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::server::{ConnectionPermit, Shared};
use crate::session::{Accepted, Session};
use crate::validators::{ConnectionInfo, Protocol};

pub use tls::TlsError;
pub(crate) use tls::{TlsAcceptor, load as load_tls};

/// Logs under a listener's own name; the target of an event has to be a constant.
macro_rules! log_for {
    ($protocol:expr, $level:ident, $($event:tt)+) => {
        match $protocol {
            Protocol::Socket => tracing::$level!(target: "jmqt::socket", $($event)+),
            Protocol::SslSocket => tracing::$level!(target: "jmqt::ssl_socket", $($event)+),
            Protocol::WebSocket => tracing::$level!(target: "jmqt::web_socket", $($event)+),
            Protocol::SslWebSocket => tracing::$level!(target: "jmqt::ssl_web_socket", $($event)+),
        }
    };
}
pub(crate) use log_for;

/// How many connections the kernel keeps for us between two accepts.
const BACKLOG: u32 = 4096;
/// After `accept` failed, mostly for want of file descriptors, it is left alone for so long.
const BACKOFF: Duration = Duration::from_millis(100);

/// One bound address.
pub(crate) struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub(crate) fn bind(
        address: SocketAddr,
        protocol: Protocol,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        // A restarted server must not wait for the old one's connections to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, protocol, tls })
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until it is told to stop; then the port is closed.
    pub(crate) async fn run(self, shared: Arc<Shared>, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => self.welcome(&shared, stream, remote),
                Err(error) => {
                    log_for!(self.protocol, warn, %error, "a connection could not be accepted");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(BACKOFF) => {}
                    }
                }
            }
        }
    }

    fn welcome(&self, shared: &Arc<Shared>, stream: TcpStream, remote: SocketAddr) {
        let counters = &shared.hub.counters;
        let Some(permit) = shared.admit() else {
            counters.connections_refused.increment();
            log_for!(self.protocol, debug, %remote, "refused: MAX_CONNECTIONS are open");
            return;
        };
        counters.connections_accepted.increment();
        // Small answers must not wait for the acknowledgement of earlier ones. It fails only on a
        // socket that is gone already.
        drop(stream.set_nodelay(true));
        let info = ConnectionInfo { remote, protocol: self.protocol };
        let shared = Arc::clone(shared);
        match &self.tls {
            None => {
                let accepted = Accepted::Plain(stream);
                let session = Session::new(Arc::clone(&shared), info, accepted, Instant::now());
                run_session(&shared, session, permit);
            }
            Some(tls) => {
                let handshake = handshake(Arc::clone(&shared), tls.clone(), stream, info, permit);
                shared.tasks.spawn(handshake);
            }
        }
    }
}

/// TLS first, within the time a first packet may take (2.15).
async fn handshake(
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    stream: TcpStream,
    info: ConnectionInfo,
    permit: ConnectionPermit,
) {
    let accepted_at = Instant::now();
    let limit = shared.limits.idle.timeout;
    let handshake = tokio::time::timeout(limit, Box::pin(tls.accept(stream)));
    let result = tokio::select! {
        result = handshake => result,
        () = shared.closing.cancelled() => return,
    };
    match result {
        Ok(Ok(stream)) => {
            let session =
                Session::new(Arc::clone(&shared), info, Accepted::Tls(Box::new(stream)), accepted_at);
            run_session(&shared, session, permit);
        }
        Ok(Err(error)) => {
            tracing::debug!(target: "jmqt::tls", remote = %info.remote, %error, "the TLS handshake failed");
        }
        Err(_) => {
            tracing::debug!(target: "jmqt::tls", remote = %info.remote, "the TLS handshake took too long");
        }
    }
}

fn run_session(shared: &Arc<Shared>, session: Session, permit: ConnectionPermit) {
    let permit = permit.occupy(session.outbox());
    shared.tasks.spawn(session.run(permit));
}
