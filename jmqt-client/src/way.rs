//! The way to a server, step by step: name, TCP, TLS, WebSocket. JMQT and MQTT have it in common.
//!
//! Every failure says which step it was and what to do about it: the hints are the caller's [`Words`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::ClientId;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::trace::PacketTrace;
use crate::transport::{self, Framing, Link, Messages, Stream, TlsInfo, Turn, UpgradeError, WebSocketReader};
use crate::{ConnectError, Endpoint, Header, Step, TlsConfig};

/// What a finished step found out.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Addresses(Vec<SocketAddr>),
    Address(SocketAddr),
    Tls(TlsInfo),
    WebSocket,
    /// A session of MQTT, in words.
    Session(String),
    Client(ClientId),
    Timeout(Duration),
}

/// Hears of every step that is done, and how long it took.
pub(crate) type Report<'r> = &'r mut (dyn FnMut(Step, Duration, Found) + Send);

/// Hints for the mistakes that are easily made with servers of one kind.
#[derive(Debug)]
pub(crate) struct Words {
    /// The TLS handshake is not answered.
    pub(crate) no_tls: &'static str,
    /// The WebSocket upgrade is not answered.
    pub(crate) no_websocket: &'static str,
    /// An HTTP server answered, and opened no WebSocket.
    pub(crate) http: &'static str,
    /// Something else answered the upgrade.
    pub(crate) no_http: &'static str,
    /// The WebSocket is for something else.
    pub(crate) not_mqtt: &'static str,
    /// The port wants TLS.
    pub(crate) tls: &'static str,
    /// An HTTP server answered on a plain socket.
    pub(crate) is_http: &'static str,
}

/// One attempt to reach a server.
pub(crate) struct Way<'c, 'r> {
    endpoint: &'c Endpoint,
    tls: &'c TlsConfig,
    rustls: Option<&'c Arc<ClientConfig>>,
    words: &'static Words,
    limit: Duration,
    deadline: Instant,
    /// When the present step began.
    since: Instant,
    report: Report<'r>,
}

impl<'c, 'r> Way<'c, 'r> {
    /// All steps together have `limit`.
    pub(crate) fn new(
        endpoint: &'c Endpoint,
        (tls, rustls): (&'c TlsConfig, Option<&'c Arc<ClientConfig>>),
        limit: Duration,
        words: &'static Words,
        report: Report<'r>,
    ) -> Self {
        let since = Instant::now();
        Self { endpoint, tls, rustls, words, limit, deadline: since + limit, since, report }
    }

    /// A step is done.
    pub(crate) fn done(&mut self, step: Step, found: Found) {
        (self.report)(step, self.since.elapsed(), found);
        self.begin();
    }

    /// A step begins now.
    pub(crate) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Gives a step what is left of the time for all of them.
    pub(crate) fn limited<T>(
        &self,
        step: Step,
        hint: &'static str,
        future: impl Future<Output = Result<T, ConnectError>>,
    ) -> impl Future<Output = Result<T, ConnectError>> {
        let (limit, done) = (self.limit, timeout_at(self.deadline, future));
        async move {
            done.await.unwrap_or_else(|_| Err(ConnectError::Timeout { step, limit, hint: hint.to_owned() }))
        }
    }

    /// Name, TCP and TLS.
    pub(crate) async fn stream(&mut self) -> Result<Stream, ConnectError> {
        let endpoint = self.endpoint;
        let addresses = self.limited(Step::Name, "check the name server", look_up(endpoint)).await?;
        self.done(Step::Name, Found::Addresses(addresses.clone()));

        let hint = "check host and port, and the firewalls in between";
        let (stream, address) = self.limited(Step::Tcp, hint, reach(addresses)).await?;
        self.done(Step::Tcp, Found::Address(address));

        if !endpoint.protocol.is_tls() {
            return Ok(Stream::Tcp(stream));
        }
        let connector = match self.rustls {
            Some(config) => TlsConnector::from(Arc::clone(config)),
            None => transport::connector(self.tls)?,
        };
        let name = transport::server_name(self.tls, endpoint)?;
        let agreed =
            self.limited(Step::Tls, self.words.no_tls, transport::handshake(&connector, name, stream));
        let (stream, info) = agreed.await.map_err(|error| self.words.of_tls(error))?;
        self.done(Step::Tls, Found::Tls(info));
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// The WebSocket upgrade.
    pub(crate) async fn websocket(
        &mut self,
        stream: Stream,
        limit: usize,
        (messages, headers): (Messages, &[Header]),
        trace: Option<PacketTrace>,
    ) -> Result<Link, ConnectError> {
        let words = self.words;
        let reader = WebSocketReader::new(self.endpoint, limit, (messages, headers))
            .map_err(|error| words.explain_upgrade(&error))?;
        let link = Link::new(stream, Framing::WebSocket(Box::new(reader)), trace);
        let link = self.limited(Step::WebSocket, words.no_websocket, upgrade(link, words)).await?;
        self.done(Step::WebSocket, Found::WebSocket);
        Ok(link)
    }
}

impl Words {
    /// An error of the TLS handshake, with the ports of this kind of server in its hint.
    fn of_tls(&self, error: ConnectError) -> ConnectError {
        let hint = self.no_tls.to_owned();
        match error {
            ConnectError::Lost { step, because, .. } => ConnectError::Lost { step, because, hint },
            ConnectError::WrongServer { found, .. } => ConnectError::WrongServer { found, hint },
            other => other,
        }
    }

    /// The first bytes a server says tell whether it is one of ours.
    pub(crate) fn recognise(&self, read: &[u8]) -> Result<(), ConnectError> {
        if read.starts_with(b"HTTP/") {
            return Err(self.speaks_http());
        }
        if is_tls(read) {
            return Err(self.speaks_tls());
        }
        Ok(())
    }

    pub(crate) fn explain_upgrade(&self, error: &UpgradeError) -> ConnectError {
        match error {
            UpgradeError::Http(status, said) => {
                let said = if said.is_empty() { String::new() } else { format!(": {}", said.escape_debug()) };
                ConnectError::WrongServer {
                    found: format!("the server answered HTTP {status} instead of opening a WebSocket{said}"),
                    hint: self.http.to_owned(),
                }
            }
            UpgradeError::NotMqtt => ConnectError::WrongServer {
                found: "the server opens a WebSocket, and offers no MQTT on it".to_owned(),
                hint: self.not_mqtt.to_owned(),
            },
            UpgradeError::NotHttp(problem) => ConnectError::WrongServer {
                found: format!("what answers there does not open a WebSocket ({problem})"),
                hint: self.no_http.to_owned(),
            },
        }
    }

    fn speaks_tls(&self) -> ConnectError {
        ConnectError::WrongServer {
            found: "the port speaks TLS, and was spoken to without".to_owned(),
            hint: self.tls.to_owned(),
        }
    }

    fn speaks_http(&self) -> ConnectError {
        ConnectError::WrongServer {
            found: "what answers there is an HTTP server".to_owned(),
            hint: self.is_http.to_owned(),
        }
    }
}

async fn look_up(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, ConnectError> {
    let unknown = |source| ConnectError::Name { host: endpoint.host.clone(), source: Arc::new(source) };
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    let addresses: Vec<_> = found.map_err(unknown)?.collect();
    if addresses.is_empty() { Err(unknown(io::Error::other("it has none"))) } else { Ok(addresses) }
}

/// How long an address has for its answer before the next one is tried beside it (RFC 8305).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// The first of the addresses that answers. They are tried in turn, the next as soon as one fails or is silent for a
/// moment; IPv6 and IPv4 take turns.
///
/// # Cancel safety
/// The attempts end with the future.
async fn reach(addresses: Vec<SocketAddr>) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let mut next = take_turns(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut failed = ConnectError::Protocol { step: Step::Tcp, problem: "there is no address".to_owned() };
    loop {
        let left = next.len();
        if let Some(address) = next.next() {
            attempts.spawn(async move { (TcpStream::connect(address).await, address) });
        }
        let outcome = tokio::select! {
            outcome = attempts.join_next() => outcome,
            () = sleep(NEXT_ADDRESS), if left > 1 => continue,
        };
        match outcome {
            Some(Ok((Ok(stream), address))) => {
                // Packets are written in portions already; waiting for more would only delay them.
                stream.set_nodelay(true).map_err(|source| unreachable_address(address, source))?;
                return Ok((stream, address));
            }
            Some(Ok((Err(source), address))) => failed = unreachable_address(address, source),
            Some(Err(_)) => {} // nobody aborts an attempt but we, by leaving
            None => return Err(failed),
        }
    }
}

/// The families take turns, the one that the resolver prefers first.
fn take_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut other = other.into_iter();
    let mut turns = Vec::new();
    for address in preferred {
        turns.push(address);
        turns.extend(other.next());
    }
    turns.extend(other);
    turns
}

fn unreachable_address(address: SocketAddr, source: io::Error) -> ConnectError {
    ConnectError::Tcp { address: address.to_string(), source: Arc::new(source) }
}

async fn upgrade(mut link: Link, words: &Words) -> Result<Link, ConnectError> {
    loop {
        let request = link.take_answers();
        link.send_framed(&request);
        let turn = link.turn().await;
        match turn {
            Ok(Turn::Written) => {}
            Ok(Turn::Read(read)) => {
                if is_tls(&read) {
                    return Err(words.speaks_tls());
                }
                if link.upgrade_with(&read).map_err(|error| words.explain_upgrade(&error))? {
                    return Ok(link);
                }
            }
            Ok(Turn::End) => {
                return Err(ConnectError::Lost {
                    step: Step::WebSocket,
                    because: None,
                    hint: words.no_websocket.to_owned(),
                });
            }
            Err(error) => {
                let refused = transport::certificate_refused(&error);
                let lost = |because| ConnectError::Lost {
                    step: Step::WebSocket,
                    because,
                    hint: words.no_websocket.to_owned(),
                };
                return Err(refused.unwrap_or_else(|| lost(Some(Arc::new(error)))));
            }
        }
    }
}

/// A TLS record of the kind a server sends that was spoken to in plain text: an alert or a handshake message.
fn is_tls(read: &[u8]) -> bool {
    matches!(read, [0x15 | 0x16, 3, 0..=4, ..])
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn ipv6_and_ipv4_addresses_take_turns() {
        let found = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(address).to_vec();
        let turns = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(address).to_vec();
        assert_eq!(take_turns(found), turns);
    }

    #[cfg(target_os = "linux")] // 127.0.0.0/8 is all ours, and a full queue makes an address silent
    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_delay_the_next() {
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind(address("127.0.0.3:0")).unwrap();
        let silent = silent.listen(1).unwrap();
        let silent_address = silent.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(silent_address)).await {
            queued.push(stream.unwrap());
            assert!(queued.len() < 100, "the queue never fills");
        }
        let server = tokio::net::TcpListener::bind("127.0.0.4:0").await.unwrap();
        let there = server.local_addr().unwrap();
        let reached = timeout(Duration::from_secs(20), reach(vec![silent_address, there])).await;
        assert_eq!(reached.unwrap().unwrap().1, there);
        // One that refuses does not even cost the moment, and the last error is told.
        let refuses = address("127.0.0.5:1");
        assert_eq!(reach(vec![refuses, there]).await.unwrap().1, there);
        let error = reach(vec![refuses]).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.5:1"), "{error}");
    }
}
