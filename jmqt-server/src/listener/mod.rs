//! Sockets that accept connections: one loop for each listener, and what happens to a socket until it
//! is a session.

mod proxy;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::server::{ConnectionPermit, Shared};
use crate::session::{Accepted, Session};
use crate::validators::{ConnectionInfo, Protocol};

use proxy::HeaderError;

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
        let newcomer = Newcomer {
            shared: Arc::clone(shared),
            info: ConnectionInfo { remote, protocol: self.protocol },
            permit,
            accepted_at: Instant::now(),
        };
        let is_proxy = shared.is_trusted_proxy(remote.ip());
        if is_proxy || self.tls.is_some() {
            shared.tasks.spawn(newcomer.agree(stream, is_proxy, self.tls.clone()));
        } else {
            newcomer.begin_session(Accepted::Plain(stream));
        }
    }
}

/// A connection that is no session yet.
struct Newcomer {
    shared: Arc<Shared>,
    info: ConnectionInfo,
    permit: ConnectionPermit,
    accepted_at: Instant,
}

impl Newcomer {
    /// What comes before everything else, within the time a first packet may take (2.15): the header of a
    /// proxy, then TLS.
    async fn agree(mut self, stream: TcpStream, is_proxy: bool, tls: Option<TlsAcceptor>) {
        let closing = self.shared.closing.clone();
        let agreed = async {
            if is_proxy && !self.read_proxy_header(&stream).await {
                return None;
            }
            match tls {
                None => Some(Accepted::Plain(stream)),
                Some(tls) => self.shake_hands(&tls, stream).await,
            }
        };
        let accepted = tokio::select! {
            accepted = Box::pin(agreed) => accepted,
            () = closing.cancelled() => return,
        };
        if let Some(accepted) = accepted {
            self.begin_session(accepted);
        }
    }

    fn deadline(&self) -> Instant {
        self.accepted_at + self.shared.limits.idle.timeout
    }

    /// Learns from the header who the client is. `false`: there was none that could be used.
    async fn read_proxy_header(&mut self, stream: &TcpStream) -> bool {
        let read = timeout_at(self.deadline(), proxy::read_header(stream)).await;
        let error = match read.unwrap_or(Err(HeaderError::TooLate)) {
            Ok(client) => {
                self.info.remote = client.unwrap_or(self.info.remote);
                return true;
            }
            Err(error) => error,
        };
        if !matches!(error, HeaderError::NothingSent) {
            self.shared.hub.counters.proxy_headers_refused.increment();
        }
        let proxy = self.info.remote;
        log_for!(self.info.protocol, debug, %proxy, %error, "refused: expected a PROXY protocol header, as TRUSTED_PROXIES has its address");
        false
    }

    async fn shake_hands(&self, tls: &TlsAcceptor, stream: TcpStream) -> Option<Accepted> {
        let remote = self.info.remote;
        match timeout_at(self.deadline(), tls.accept(stream)).await {
            Ok(Ok(stream)) => return Some(Accepted::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(target: "jmqt::tls", %remote, %error, "the TLS handshake failed");
            }
            Err(_) => {
                tracing::debug!(target: "jmqt::tls", %remote, "the TLS handshake took too long");
            }
        }
        None
    }

    fn begin_session(self, accepted: Accepted) {
        let Self { shared, info, permit, accepted_at } = self;
        let session = Session::new(Arc::clone(&shared), info, accepted, accepted_at);
        let permit = permit.occupy(session.outbox());
        shared.tasks.spawn(session.run(permit));
    }
}
