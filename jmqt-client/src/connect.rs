//! The way to a session, step by step: name, TCP, TLS, WebSocket, `auth`, `conn` (§7.a to §7.d).
//!
//! Every failure says which step it was and what to do about it. The same steps, reported one by one, are what
//! [`diagnose`](crate::diagnose) shows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jmqt_protocol::{
    Auth, AuthOutcome, AuthToken, ClientId, Conn, ConnAck, Disconn, NUL, Packet, Payload, StatusCode, decode,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::config::Credentials;
use crate::transport::{
    self, BadStream, Framing, Link, NulReader, Stream, TlsInfo, Turn, UpgradeError, WebSocketReader,
};
use crate::{Config, ConnectError, Endpoint, Secret, ServerClose, Step};

/// What a server that says nothing of it is taken to mean.
const USUAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection with a session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) client: ClientId,
    /// `ts`: how long either side may be silent.
    pub(crate) timeout: Duration,
    /// The server stores a publish that is sent twice once (protocol.md 2.23).
    pub(crate) once: bool,
    /// What came behind the `connAck`, from the given place on.
    pub(crate) read: (Bytes, usize),
}

impl Session {
    /// Ends a session on which nothing was done: `disconn`, and the end of the connection.
    pub(crate) async fn leave(&mut self) {
        const LAST_WORDS: Duration = Duration::from_secs(1);
        Packet::Disconn(Disconn::LEAVING).encode(self.link.portion());
        self.link.portion().push(NUL);
        self.link.send();
        let goodbye = self.link.close_frame();
        self.link.send_framed(&goodbye);
        // It ends also if the other side does not take it.
        let _ = timeout(LAST_WORDS, self.link.finish()).await;
    }
}

/// What a finished step found out.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Addresses(Vec<SocketAddr>),
    Address(SocketAddr),
    Tls(TlsInfo),
    WebSocket,
    Client(ClientId),
    Timeout(Duration),
}

/// Hears of every step that is done, and how long it took.
pub(crate) type Report<'r> = &'r mut (dyn FnMut(Step, Duration, Found) + Send);

/// Where to, and as whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'t> {
    pub(crate) endpoint: &'t Endpoint,
    /// `pi`, of a client that publishes (protocol.md 2.23).
    pub(crate) publisher: Option<&'t str>,
}

/// Makes a connection and opens a session on it. `token` is used if there is one; what `auth` grants is put there.
///
/// # Cancel safety
/// The connection is closed with the future.
pub(crate) async fn open(
    config: &Config,
    target: Target<'_>,
    token: &mut Option<(ClientId, AuthToken)>,
    report: Report<'_>,
) -> Result<Session, ConnectError> {
    let now = Instant::now();
    let deadline = now + config.connect_timeout;
    let mut opening =
        Opening { config, target, auth_data: config.auth_data.clone(), deadline, since: now, report };
    opening.ask_for_credentials(token).await?;
    let stream = opening.stream().await?;
    let link = opening.frame(stream).await?;
    let mut talk = Talk { link, read: Bytes::new(), at: 0, heard: false };
    let mut asked = token.is_none();
    if asked {
        *token = Some(opening.auth(&mut talk).await?);
    }
    loop {
        let Some((client, secret)) = token.clone() else {
            return Err(ConnectError::Protocol { step: Step::Auth, problem: "there is no token".to_owned() });
        };
        let ack = opening.conn(&mut talk, &client, &secret).await?;
        if ack.status.is_ok() {
            let timeout = ack
                .timeout_seconds
                .map_or(USUAL_TIMEOUT, |seconds| Duration::from_secs(u64::from(seconds.clamp(1, 86_400))));
            opening.done(Step::Conn, Found::Timeout(timeout));
            let once = ack.remembers_publishes;
            return Ok(Session { link: talk.link, client, timeout, once, read: (talk.read, talk.at) });
        }
        // A token grows old; a new one is asked for once (§10).
        let is_stale = ack.status == StatusCode::INVALID_TOKEN && opening.auth_data.is_some() && !asked;
        if opening.auth_data.is_some() {
            *token = None;
        }
        if !is_stale {
            let (step, status) = (Step::Conn, ack.status);
            return Err(ConnectError::Refused { step, status, message: String::new() });
        }
        *token = Some(opening.auth(&mut talk).await?);
        asked = true;
    }
}

/// Asks for a token on a connection of its own (§7.a), at the first server that gives one.
///
/// # Cancel safety
/// The connection is closed with the future.
pub(crate) async fn authenticate(config: &Config) -> Result<(ClientId, AuthToken), ConnectError> {
    config.check()?;
    let mut failed = ConnectError::Closed;
    for endpoint in &config.endpoints {
        match authenticate_at(config, endpoint).await {
            Err(error) => failed = error,
            granted => return granted,
        }
    }
    Err(failed)
}

async fn authenticate_at(
    config: &Config,
    endpoint: &Endpoint,
) -> Result<(ClientId, AuthToken), ConnectError> {
    let now = Instant::now();
    let report: Report<'_> = &mut |_, _, _| {};
    let (target, deadline) = (Target { endpoint, publisher: None }, now + config.connect_timeout);
    let mut opening =
        Opening { config, target, auth_data: config.auth_data.clone(), deadline, since: now, report };
    let mut token = None;
    opening.ask_for_credentials(&mut token).await?;
    if let Some(token) = token {
        return Ok(token);
    }
    let stream = opening.stream().await?;
    let link = opening.frame(stream).await?;
    opening.auth(&mut Talk { link, read: Bytes::new(), at: 0, heard: false }).await
}

struct Opening<'c, 'r> {
    config: &'c Config,
    target: Target<'c>,
    auth_data: Option<Secret>,
    deadline: Instant,
    /// When the present step began.
    since: Instant,
    report: Report<'r>,
}

impl Opening<'_, '_> {
    fn done(&mut self, step: Step, found: Found) {
        (self.report)(step, self.since.elapsed(), found);
        self.since = Instant::now();
    }

    /// Gives a step what is left of the time for all of them.
    fn limited<T>(
        &self,
        step: Step,
        hint: &'static str,
        future: impl Future<Output = Result<T, ConnectError>>,
    ) -> impl Future<Output = Result<T, ConnectError>> {
        let (limit, done) = (self.config.connect_timeout, timeout_at(self.deadline, future));
        async move {
            done.await.unwrap_or_else(|_| Err(ConnectError::Timeout { step, limit, hint: hint.to_owned() }))
        }
    }

    /// Has the application's function say who we are, if there is one.
    async fn ask_for_credentials(
        &mut self,
        token: &mut Option<(ClientId, AuthToken)>,
    ) -> Result<(), ConnectError> {
        let Some(source) = &self.config.source else { return Ok(()) };
        let asked = async { source.ask().await.map_err(ConnectError::Credentials) };
        let hint = "the function given to Config::credentials did not return";
        match self.limited(Step::Auth, hint, asked).await? {
            Credentials::Auth(data) => (self.auth_data, *token) = (Some(data), None),
            Credentials::Token(client, secret) => (self.auth_data, *token) = (None, Some((client, secret))),
        }
        self.since = Instant::now();
        Ok(())
    }

    /// Name, TCP and TLS.
    async fn stream(&mut self) -> Result<Stream, ConnectError> {
        let endpoint = self.target.endpoint;
        let addresses = self.limited(Step::Name, "check the name server", look_up(endpoint)).await?;
        self.done(Step::Name, Found::Addresses(addresses.clone()));

        let hint = "check host and port, and the firewalls in between";
        let (stream, address) = self.limited(Step::Tcp, hint, reach(addresses)).await?;
        self.done(Step::Tcp, Found::Address(address));

        if !endpoint.protocol.is_tls() {
            return Ok(Stream::Tcp(stream));
        }
        let connector = match &self.config.rustls {
            Some(config) => TlsConnector::from(Arc::clone(config)),
            None => transport::connector(&self.config.tls)?,
        };
        let name = transport::server_name(&self.config.tls, endpoint)?;
        let hint = "the port may not use TLS: for a port without TLS, use jmqt:// (8010) or ws:// (8012)";
        let agreed = self.limited(Step::Tls, hint, transport::handshake(&connector, name, stream));
        let (stream, info) = agreed.await?;
        self.done(Step::Tls, Found::Tls(info));
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// NUL framing, or the WebSocket upgrade.
    async fn frame(&mut self, stream: Stream) -> Result<Link, ConnectError> {
        let limit = self.config.max_packet_bytes;
        if !self.target.endpoint.protocol.is_websocket() {
            return Ok(Link::new(stream, Framing::Nul(NulReader::new(limit)), self.config.trace.clone()));
        }
        let hint = "the port may be a plain JMQT socket: then use jmqt:// (8010) or jmqts:// (8011)";
        let reader =
            WebSocketReader::new(self.target.endpoint, limit).map_err(|error| explain_upgrade(&error))?;
        let link = Link::new(stream, Framing::WebSocket(Box::new(reader)), self.config.trace.clone());
        let link = self.limited(Step::WebSocket, hint, upgrade(link, hint)).await?;
        self.done(Step::WebSocket, Found::WebSocket);
        Ok(link)
    }

    async fn auth(&mut self, talk: &mut Talk) -> Result<(ClientId, AuthToken), ConnectError> {
        let data = self.auth_data.as_ref().map_or(Payload::EMPTY_OBJECT, |data| data.reveal());
        let packet = Packet::Auth(Auth { data });
        let answer = self.limited(Step::Auth, NO_ANSWER, talk.ask(&packet, Step::Auth)).await?;
        let Answer::Granted { client, token } = answer else {
            return match answer {
                Answer::Refused { status, message } => {
                    Err(ConnectError::Refused { step: Step::Auth, status, message })
                }
                _ => Err(unexpected(Step::Auth)),
            };
        };
        let client = ClientId::parse(&client)
            .map_err(|error| ConnectError::Protocol { step: Step::Auth, problem: error.to_string() })?;
        self.done(Step::Auth, Found::Client(client.clone()));
        Ok((client, AuthToken::new(token)))
    }

    async fn conn(
        &mut self,
        talk: &mut Talk,
        client: &ClientId,
        token: &AuthToken,
    ) -> Result<ConnAck, ConnectError> {
        let packet = Packet::Conn(Conn {
            token: token.reveal().into(),
            client: client.as_str().into(),
            window: Some(self.config.window),
            publisher: self.target.publisher.map(Into::into),
        });
        match self.limited(Step::Conn, NO_ANSWER, talk.ask(&packet, Step::Conn)).await? {
            Answer::Connected(ack) => Ok(ack),
            _ => Err(unexpected(Step::Conn)),
        }
    }
}

const NO_ANSWER: &str = "what listens there may not be a JMQT server, or not of this protocol: jmqt:// is 8010, \
     jmqts:// 8011, ws:// 8012, wss:// 8013";

fn unexpected(step: Step) -> ConnectError {
    ConnectError::Protocol { step, problem: "the server answered with another packet".to_owned() }
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

async fn upgrade(mut link: Link, hint: &'static str) -> Result<Link, ConnectError> {
    loop {
        let request = link.take_answers();
        link.send_framed(&request);
        let turn = link.turn().await;
        match turn {
            Ok(Turn::Written) => {}
            Ok(Turn::Read(read)) => {
                if is_tls(&read) {
                    return Err(speaks_tls());
                }
                if link.upgrade_with(&read).map_err(|error| explain_upgrade(&error))? {
                    return Ok(link);
                }
            }
            Ok(Turn::End) => {
                return Err(ConnectError::Lost {
                    step: Step::WebSocket,
                    because: None,
                    hint: hint.to_owned(),
                });
            }
            Err(error) => {
                let refused = transport::certificate_refused(&error);
                let lost =
                    |because| ConnectError::Lost { step: Step::WebSocket, because, hint: hint.to_owned() };
                return Err(refused.unwrap_or_else(|| lost(Some(Arc::new(error)))));
            }
        }
    }
}

fn explain_upgrade(error: &UpgradeError) -> ConnectError {
    match error {
        UpgradeError::Http(status) => ConnectError::WrongServer {
            found: format!("the server answered HTTP {status} instead of opening a WebSocket"),
            hint: "check port and path: the JMQT server's WebSocket port is usually 8012 (8013 with TLS)"
                .to_owned(),
        },
        UpgradeError::NotHttp(problem) => ConnectError::WrongServer {
            found: format!("what answers there does not open a WebSocket ({problem})"),
            hint: "for a plain JMQT socket use jmqt:// (8010) or jmqts:// (8011)".to_owned(),
        },
    }
}

/// A TLS record of the kind a server sends that was spoken to in plain text: an alert or a handshake message.
fn is_tls(read: &[u8]) -> bool {
    matches!(read, [0x15 | 0x16, 3, 0..=4, ..])
}

fn speaks_tls() -> ConnectError {
    ConnectError::WrongServer {
        found: "the port speaks TLS, and was spoken to without".to_owned(),
        hint: "use jmqts:// or wss:// (ENABLE_SSL = true)".to_owned(),
    }
}

fn speaks_http() -> ConnectError {
    ConnectError::WrongServer {
        found: "what answers there is an HTTP server".to_owned(),
        hint: "for the WebSocket port of a JMQT server use ws:// (8012) or wss:// (8013); its TCP port is usually 8010"
            .to_owned(),
    }
}

enum Answer {
    Granted { client: String, token: String },
    Refused { status: StatusCode, message: String },
    Connected(ConnAck),
}

/// Question and answer, before there is a session.
struct Talk {
    link: Link,
    read: Bytes,
    at: usize,
    heard: bool,
}

impl Talk {
    async fn ask(&mut self, packet: &Packet<'_>, step: Step) -> Result<Answer, ConnectError> {
        packet.encode(self.link.portion());
        self.link.portion().push(NUL);
        self.link.send();
        loop {
            if let Some(answer) = self.answer(step)? {
                return Ok(answer);
            }
            let lost = |because| ConnectError::Lost { step, because, hint: NO_ANSWER.to_owned() };
            match self.link.turn().await {
                Ok(Turn::Written) => {}
                Ok(Turn::Read(read)) => {
                    if !std::mem::replace(&mut self.heard, true) {
                        recognise(&read)?;
                    }
                    (self.read, self.at) = (read, 0);
                }
                Ok(Turn::End) => return Err(lost(None)),
                Err(error) => {
                    let refused = transport::certificate_refused(&error);
                    return Err(refused.unwrap_or_else(|| lost(Some(Arc::new(error)))));
                }
            }
        }
    }

    /// The next answer in what has been read. Anything else has no place here, and is passed over.
    fn answer(&mut self, step: Step) -> Result<Option<Answer>, ConnectError> {
        let broken = |error| match error {
            BadStream::Closed(Some((code, reason))) => {
                ConnectError::ByServer { step, close: ServerClose::from_close_frame(code, reason) }
            }
            BadStream::Closed(None) => ConnectError::Lost { step, because: None, hint: NO_ANSWER.to_owned() },
            error => ConnectError::Protocol { step, problem: error.to_string() },
        };
        while let Some(incoming) = self.link.next(&self.read, &mut self.at).map_err(broken)? {
            let Some(packet) = std::str::from_utf8(incoming.bytes).ok().and_then(|text| decode(text).ok())
            else {
                continue;
            };
            match packet {
                Packet::AuthAck(ack) => {
                    return Ok(Some(match ack.outcome {
                        AuthOutcome::Granted { token, client } => {
                            Answer::Granted { client: client.into_owned(), token: token.into_owned() }
                        }
                        AuthOutcome::Refused { status, message } => {
                            Answer::Refused { status, message: message.into_owned() }
                        }
                    }));
                }
                Packet::ConnAck(ack) => return Ok(Some(Answer::Connected(ack))),
                Packet::Disconn(disconn) => {
                    if let Some(close) = ServerClose::from_packet(&disconn) {
                        return Err(ConnectError::ByServer { step, close });
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The first bytes a server says tell whether it is one of ours.
fn recognise(read: &[u8]) -> Result<(), ConnectError> {
    if read.starts_with(b"HTTP/") {
        return Err(speaks_http());
    }
    if is_tls(read) {
        return Err(speaks_tls());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns() {
        let found = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(address).to_vec();
        let turns = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(address).to_vec();
        assert_eq!(take_turns(found), turns);
    }

    #[cfg(target_os = "linux")] // 127.0.0.0/8 is all ours, and a full queue makes an address silent
    #[tokio::test]
    async fn a_silent_address_does_not_keep_from_the_next() {
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
