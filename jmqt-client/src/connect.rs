//! From a connection to a session: `auth`, `conn` (§7.a to §7.d). The steps before them are in `way`.
//!
//! Every failure says which step it was and what to do about it. The same steps, reported one by one, are what
//! [`diagnose`](crate::diagnose) shows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jmqt_protocol::{
    Auth, AuthOutcome, AuthToken, ClientId, Conn, ConnAck, Disconn, NUL, Packet, Payload, StatusCode, decode,
};
use tokio::time::timeout;

use crate::config::Credentials;
use crate::transport::{self, BadStream, Framing, Link, Messages, NulReader, Stream, Turn};
use crate::way::{Found, Report, Way, Words};
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
    let mut opening = Opening::new(config, target, report);
    opening.ask_for_credentials(token).await?;
    let stream = opening.way.stream().await?;
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
            opening.way.done(Step::Conn, Found::Timeout(timeout));
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
    let report: Report<'_> = &mut |_, _, _| {};
    let mut opening = Opening::new(config, Target { endpoint, publisher: None }, report);
    let mut token = None;
    opening.ask_for_credentials(&mut token).await?;
    if let Some(token) = token {
        return Ok(token);
    }
    let stream = opening.way.stream().await?;
    let link = opening.frame(stream).await?;
    opening.auth(&mut Talk { link, read: Bytes::new(), at: 0, heard: false }).await
}

struct Opening<'c, 'r> {
    config: &'c Config,
    target: Target<'c>,
    auth_data: Option<Secret>,
    way: Way<'c, 'r>,
}

impl<'c, 'r> Opening<'c, 'r> {
    fn new(config: &'c Config, target: Target<'c>, report: Report<'r>) -> Self {
        let way = Way::new(
            target.endpoint,
            (&config.tls, config.rustls.as_ref()),
            config.connect_timeout,
            &WORDS,
            report,
        );
        Self { config, target, auth_data: config.auth_data.clone(), way }
    }

    /// NUL framing, or the WebSocket upgrade.
    async fn frame(&mut self, stream: Stream) -> Result<Link, ConnectError> {
        let (limit, trace) = (self.config.max_packet_bytes, self.config.trace.clone());
        if self.target.endpoint.protocol.is_websocket() {
            let opening = (Messages::Text, self.config.websocket_headers.as_slice());
            return self.way.websocket(stream, limit, opening, trace).await;
        }
        Ok(Link::new(stream, Framing::Nul(NulReader::new(limit)), trace))
    }

    /// Has the application's function say who we are, if there is one.
    async fn ask_for_credentials(
        &mut self,
        token: &mut Option<(ClientId, AuthToken)>,
    ) -> Result<(), ConnectError> {
        let Some(source) = &self.config.source else { return Ok(()) };
        let asked = async { source.ask().await.map_err(ConnectError::Credentials) };
        let hint = "the function given to Config::credentials did not return";
        match self.way.limited(Step::Auth, hint, asked).await? {
            Credentials::Auth(data) => (self.auth_data, *token) = (Some(data), None),
            Credentials::Token(client, secret) => (self.auth_data, *token) = (None, Some((client, secret))),
        }
        self.way.begin();
        Ok(())
    }

    async fn auth(&mut self, talk: &mut Talk) -> Result<(ClientId, AuthToken), ConnectError> {
        let data = self.auth_data.as_ref().map_or(Payload::EMPTY_OBJECT, |data| data.reveal());
        let packet = Packet::Auth(Auth { data });
        let answer = self.way.limited(Step::Auth, NO_ANSWER, talk.ask(&packet, Step::Auth)).await?;
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
        self.way.done(Step::Auth, Found::Client(client.clone()));
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
        match self.way.limited(Step::Conn, NO_ANSWER, talk.ask(&packet, Step::Conn)).await? {
            Answer::Connected(ack) => Ok(ack),
            _ => Err(unexpected(Step::Conn)),
        }
    }
}

/// Hints for a JMQT server.
const WORDS: Words = Words {
    no_tls: "the port may not use TLS: for a port without TLS, use jmqt:// (8010) or ws:// (8012)",
    no_websocket: "the port may be a plain JMQT socket: then use jmqt:// (8010) or jmqts:// (8011)",
    http: "check scheme, port and path: the WebSocket of a JMQT server is usually ws:// on port 8012, or wss:// on 8013",
    no_http: "for a plain JMQT socket use jmqt:// (8010) or jmqts:// (8011)",
    not_mqtt: "",
    tls: "use jmqts:// or wss:// (ENABLE_SSL = true)",
    is_http: "for the WebSocket port of a JMQT server use ws:// (8012) or wss:// (8013); its TCP port is usually 8010",
};

const NO_ANSWER: &str = "what listens there may not be a JMQT server, or not of this protocol: jmqt:// is 8010, \
     jmqts:// 8011, ws:// 8012, wss:// 8013; an MQTT server has an mqtt:// URL";

fn unexpected(step: Step) -> ConnectError {
    ConnectError::Protocol { step, problem: "the server answered with another packet".to_owned() }
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
                        WORDS.recognise(&read)?;
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
