//! Accepts connections: one loop for each listener, and the handling of a socket before its session
//! begins.

mod bound;
mod files;
mod proxy;

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::admission::{AddressKey, ConnectionPermit, Refusal};
use crate::connection::{ConnectionInfo, Protocol};
use crate::context::Shared;
use crate::log_limit::{LogLimit, log_limited};
use crate::serve::{Connection, note_wrong_port};
use crate::session::Accepted;
use crate::tls::{Certificates, TlsAcceptor, is_refused_certificate};
use crate::transport::Foreign;

use proxy::HeaderError;

pub use bound::BoundSocket;
pub(crate) use files::raise_limit;

/// Logs with the target of the listener. The target of an event must be a constant, hence the macro.
macro_rules! log_for {
    ($protocol:expr, $level:ident, $($event:tt)+) => {
        match $protocol {
            Protocol::Socket => tracing::$level!(target: "jmqt::socket", $($event)+),
            Protocol::SslSocket => tracing::$level!(target: "jmqt::ssl_socket", $($event)+),
            Protocol::WebSocket => tracing::$level!(target: "jmqt::web_socket", $($event)+),
            Protocol::SslWebSocket => tracing::$level!(target: "jmqt::ssl_web_socket", $($event)+),
            Protocol::Mqtt => tracing::$level!(target: "jmqt::mqtt", $($event)+),
            Protocol::SslMqtt => tracing::$level!(target: "jmqt::ssl_mqtt", $($event)+),
            Protocol::MqttWebSocket => tracing::$level!(target: "jmqt::mqtt_web_socket", $($event)+),
            Protocol::SslMqttWebSocket => tracing::$level!(target: "jmqt::ssl_mqtt_web_socket", $($event)+),
            #[cfg(test)]
            Protocol::Lines => tracing::$level!(target: "jmqt::lines", $($event)+),
        }
    };
}
pub(crate) use log_for;

/// The listen backlog of the kernel.
const BACKLOG: u32 = 4096;
/// The limit of unsent bytes in the kernel's send buffer. Without it, the kernel accepts some megabytes, and then nothing
/// until a third of them is sent: a client that reads steadily would appear stalled, and the buffered bytes would not
/// be counted.
const UNSENT_BYTES: u32 = 128 * 1024;
/// The pause after a failed `accept`, which usually means that no file descriptors are left.
const BACKOFF: Duration = Duration::from_millis(100);
/// The delay after which a client that was refused because of a limit should reconnect.
const RETRY_SECONDS: u32 = 5;
/// How long the server reads from a refused client, and the most such clients at a time.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 16;

/// The delay between attempts to reopen a port.
const REOPEN_EVERY: Duration = Duration::from_secs(5);

/// Waits until the node accepts clients, or stops accepting them.
async fn turned(gate: &mut Option<watch::Receiver<bool>>, to: bool) {
    let Some(gate) = gate else { return std::future::pending().await };
    if gate.wait_for(|lets_in| *lets_in == to).await.is_err() {
        std::future::pending().await // the server is stopping
    }
}

/// One bound address.
pub(crate) struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    tls: Option<Arc<Certificates>>,
    /// The application has bound the socket. It stays open until the server stops, because it might be impossible to bind
    /// it again.
    is_given: bool,
}

impl Listener {
    /// Listens on a socket that the application has bound.
    pub(crate) fn on(
        socket: BoundSocket,
        protocol: Protocol,
        tls: Option<Arc<Certificates>>,
    ) -> io::Result<Self> {
        let socket = socket.into_listener()?;
        limit_unsent(&socket);
        Ok(Self { socket, protocol, tls, is_given: true })
    }

    pub(crate) fn bind(
        address: SocketAddr,
        protocol: Protocol,
        tls: Option<Arc<Certificates>>,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        // A restarted server must not wait until connections of the previous process time out.
        socket.set_reuseaddr(true)?;
        limit_unsent(&socket);
        socket.bind(address)?;
        Ok(Self { socket: socket.listen(BACKLOG)?, protocol, tls, is_given: false })
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts connections until the server stops, then closes the port. The port is also closed while clients should
    /// connect to other nodes of the cluster.
    pub(crate) async fn run(mut self, shared: Arc<Shared>, stop: CancellationToken) {
        let mut gate = shared.gate().filter(|_| !self.is_given);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                () = turned(&mut gate, false) => {
                    let reopened = tokio::select! {
                        () = stop.cancelled() => return,
                        reopened = self.close_for_a_while(&mut gate) => reopened,
                    };
                    match reopened {
                        Some(listener) => self = listener,
                        None => return,
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                // A listener on `::` reports IPv4 addresses as IPv6 addresses.
                Ok((stream, remote)) => {
                    self.welcome(&shared, stream, SocketAddr::new(remote.ip().to_canonical(), remote.port()));
                }
                // The client disconnected before it was accepted; the next client need not wait.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.accept_failed(&shared, &error);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(BACKOFF) => {}
                    }
                }
            }
        }
    }

    fn accept_failed(&self, shared: &Shared, error: &io::Error) {
        static LIMIT: LogLimit = LogLimit::new();
        shared.hub.counters.accepts_failed.increment();
        if let Some(left_out) = LIMIT.permit() {
            log_for!(self.protocol, warn, left_out, %error, "cannot accept connections: if too many files are open, raise the limit (`ulimit -n`) or lower MAX_CONNECTIONS");
        }
    }

    /// Closes the port until the node accepts clients again. `None`: the address is unknown.
    async fn close_for_a_while(self, gate: &mut Option<watch::Receiver<bool>>) -> Option<Self> {
        let (address, protocol, tls) = (self.address().ok()?, self.protocol, self.tls.clone());
        drop(self);
        log_for!(protocol, warn, "Not listening on {address}");
        loop {
            turned(gate, true).await;
            match Self::bind(address, protocol, tls.clone()) {
                Ok(listener) => {
                    log_for!(protocol, info, "Listening on {address} again");
                    return Some(listener);
                }
                Err(error) => {
                    log_for!(protocol, error, %error, "cannot listen on {address} again; retrying");
                    tokio::time::sleep(REOPEN_EVERY).await;
                }
            }
        }
    }

    fn welcome(&self, shared: &Arc<Shared>, stream: TcpStream, remote: SocketAddr) {
        let counters = &shared.hub.counters;
        let Some(mut permit) = shared.admission.admit() else {
            static LIMIT: LogLimit = LogLimit::new();
            counters.connections_refused.increment();
            if let Some(left_out) = LIMIT.permit() {
                log_for!(self.protocol, warn, left_out, %remote, "refused: MAX_CONNECTIONS is reached");
            }
            let problem = "the server has reached its limit of connections";
            return turn_away(shared, stream, self.protocol, problem);
        };
        let is_proxy = shared.admission.is_trusted_proxy(remote.ip());
        // For a proxy, the header contains the address that counts.
        if !is_proxy && let Some(problem) = count_address(shared, &mut permit, remote, self.protocol) {
            return turn_away(shared, stream, self.protocol, problem);
        }
        counters.connections_accepted.increment();
        if let Some(measures) = counters.measures() {
            measures.accepted(self.protocol);
        }
        // Small answers must not wait for the acknowledgement of earlier answers. This fails only on a
        // closed socket.
        drop(stream.set_nodelay(true));
        let newcomer = Newcomer {
            shared: Arc::clone(shared),
            info: ConnectionInfo { remote, protocol: self.protocol },
            permit,
            accepted_at: Instant::now(),
        };
        if is_proxy || self.tls.is_some() {
            let tls = self.tls.as_ref().map(|certificates| certificates.acceptor());
            shared.tasks.spawn(newcomer.agree(stream, is_proxy, tls));
        } else {
            newcomer.begin_session(Accepted::Plain(stream));
        }
    }
}

/// Connections inherit this option from their listener. On systems without it, slow clients are detected later.
fn limit_unsent<'s, S>(socket: &'s S)
where
    socket2::SockRef<'s>: From<&'s S>,
{
    #[cfg(any(target_os = "linux", target_os = "android"))]
    drop(socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, UNSENT_BYTES);
}

/// Counts the connection for its address. If the address exceeds a limit, returns the text for the client.
fn count_address(
    shared: &Shared,
    permit: &mut ConnectionPermit,
    remote: SocketAddr,
    protocol: Protocol,
) -> Option<&'static str> {
    let refusal = permit.count_for(AddressKey::of(remote.ip())?).err()?;
    static LIMIT: LogLimit = LogLimit::new();
    shared.hub.counters.connections_refused_by_address.increment();
    if let Some(left_out) = LIMIT.permit() {
        let key = match refusal {
            Refusal::TooMany => "MAX_CONNECTIONS_PER_ADDRESS",
            Refusal::TooFast => "MAX_CONNECTS_PER_ADDRESS_PER_SECOND",
        };
        log_for!(protocol, warn, left_out, %remote, "refused: its address has reached {key}. If it is a proxy, list it in TRUSTED_PROXIES or raise the limit");
    }
    Some(match refusal {
        Refusal::TooMany => "too many connections from this address",
        Refusal::TooFast => "too many new connections from this address",
    })
}

/// Sends the reason of a refusal, as far as possible without waiting, then closes the connection. Before that, the server
/// reads and discards input for a moment, for a limited number of clients: closing a socket with unread bytes resets the
/// connection, and the client may lose the reason.
fn turn_away(shared: &Arc<Shared>, stream: TcpStream, protocol: Protocol, problem: &str) {
    let answer = match protocol {
        // 4006 is TRY_LATER (protocol.md 2.22).
        Protocol::Socket => {
            format!("{{\"disconn\":{{\"st\":4006,\"mg\":\"{problem}\",\"ts\":{RETRY_SECONDS}}}}}\0")
        }
        Protocol::WebSocket | Protocol::MqttWebSocket => format!(
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: {RETRY_SECONDS}\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{problem}\n",
            problem.len() + 1
        ),
        // A TLS handshake would cost too much for a refusal.
        Protocol::SslSocket | Protocol::SslWebSocket | Protocol::SslMqtt | Protocol::SslMqttWebSocket => {
            return;
        }
        // The version of the client is not known before its CONNECT.
        Protocol::Mqtt => return,
        #[cfg(test)]
        Protocol::Lines => return,
    };
    send_last(shared, stream, answer.as_bytes());
}

/// The same for any answer.
fn send_last(shared: &Arc<Shared>, stream: TcpStream, answer: &[u8]) {
    // The send buffer of a new socket has room for this. If the client is gone, the error does not matter.
    let socket = socket2::SockRef::from(&stream);
    if socket.send(answer).is_err() || socket.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let Ok(place) = Arc::clone(&shared.turned_away).try_acquire_owned() else { return };
    shared.tasks.spawn(async move {
        let thrown_away = async {
            for _ in 0..LINGER_READS {
                if stream.readable().await.is_err() || stream.try_read(&mut [0; 4096]).is_ok_and(|it| it == 0)
                {
                    break;
                }
            }
        };
        drop(timeout(LINGER, thrown_away).await);
        drop(place);
    });
}

/// A connection without a session.
struct Newcomer {
    shared: Arc<Shared>,
    info: ConnectionInfo,
    permit: ConnectionPermit,
    accepted_at: Instant,
}

impl Newcomer {
    /// Reads the PROXY protocol header, then does the TLS handshake, within the time limit of the first packet (2.15).
    async fn agree(mut self, stream: TcpStream, is_proxy: bool, tls: Option<TlsAcceptor>) {
        let closing = self.shared.admission.closing.clone();
        let agreed = async {
            if is_proxy {
                if !self.read_proxy_header(&stream).await {
                    return None;
                }
                let ConnectionInfo { remote, protocol } = self.info;
                // Connections of a proxy whose client is not known yet have no limit per address.
                if !self.shared.admission.is_trusted_proxy(remote.ip())
                    && let Some(problem) = count_address(&self.shared, &mut self.permit, remote, protocol)
                {
                    turn_away(&self.shared, stream, protocol, problem);
                    return None;
                }
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
        self.accepted_at + self.shared.idle.timeout
    }

    /// Reads the client's address from the header. `false`: the header is missing or invalid.
    async fn read_proxy_header(&mut self, stream: &TcpStream) -> bool {
        let is_http = matches!(self.info.protocol, Protocol::WebSocket | Protocol::MqttWebSocket);
        let header = async {
            if is_http && proxy::begins_with_http(stream).await? {
                return Ok(None); // the HTTP request names the client
            }
            proxy::read_header(stream).await
        };
        let read = timeout_at(self.deadline(), header).await;
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
        log_for!(self.info.protocol, debug, %proxy, %error, "refused: expected a PROXY protocol header, because TRUSTED_PROXIES contains its address");
        false
    }

    async fn shake_hands(&self, tls: &TlsAcceptor, stream: TcpStream) -> Option<Accepted> {
        let remote = self.info.remote;
        // Other bytes that are wrong are found by the handshake.
        if let Ok(Some((foreign, answer))) = timeout_at(self.deadline(), foreign_bytes(&stream)).await {
            self.shared.hub.counters.tls_handshakes_failed.increment();
            note_wrong_port(&self.shared, self.info, foreign, false);
            send_last(&self.shared, stream, &answer);
            return None;
        }
        match timeout_at(self.deadline(), in_turns(&self.shared.handshakes, tls.accept(stream))).await {
            Ok(Ok(stream)) => return Some(Accepted::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(target: "jmqt::tls", %remote, %error, "the TLS handshake failed");
                if is_refused_certificate(&error) {
                    self.shared.hub.counters.client_certificates_refused.increment();
                    log_limited!(warn, target: "jmqt::tls", %remote, %error, "refused a client that has no certificate, or one that no authority of SSL_CLIENT_CA_PATH has issued");
                }
            }
            Err(_) => {
                tracing::debug!(target: "jmqt::tls", %remote, "the TLS handshake took too long");
            }
        }
        self.shared.hub.counters.tls_handshakes_failed.increment();
        None
    }

    fn begin_session(self, accepted: Accepted) {
        let Self { shared, info, permit, accepted_at } = self;
        let connection = Connection::new(Arc::clone(&shared), info, accepted, accepted_at);
        let permit = permit.occupy(connection.outbox());
        shared.tasks.spawn(connection.run(permit));
    }
}

/// Recognises a client that does not send TLS to a port with TLS, without taking its bytes from the socket. Returns the
/// answer to it, which is empty unless its first packet has come at once.
async fn foreign_bytes(stream: &TcpStream) -> Option<(Foreign, Vec<u8>)> {
    const TLS_RECORD: u8 = 0x16;
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 0 || first == [TLS_RECORD] {
        return None;
    }
    let mut received = vec![0; 1024];
    let length = stream.peek(&mut received).await.ok()?;
    let foreign = Foreign::of(&received[..length])?;
    let text = "this port is for TLS, and the client has sent none";
    Some((foreign, foreign.answer(&received[..length], text).unwrap_or_default()))
}

/// Polls a future that computes a lot between its waits, and holds a permit during each poll. The permits are granted
/// in order. A future that waits for its client holds no permit, so that silent clients do not block others.
async fn in_turns<F: Future>(places: &tokio::sync::Semaphore, future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        // The semaphore is never closed; if it were, polling without a permit would be correct.
        let place = places.acquire().await;
        if let Poll::Ready(output) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return output;
        }
        drop(place);
        // The future has registered the waker of this task.
        let mut has_waited = false;
        poll_fn(|_| if std::mem::replace(&mut has_waited, true) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }
}
