//! HTTP before a WebSocket: the upgrade (RFC 6455 §4), health checks, and an explicit answer to
//! every other request.
//!
//! A connection has one request. Bodies are not read, and connections are not reused:
//! a request that is not an upgrade ends the connection. Not here: frames (`frames`), sockets.

use std::fmt::{self, Write as _};
use std::sync::RwLock;

use httparse::{EMPTY_HEADER, Header, Status};
use tungstenite::handshake::derive_accept_key;

use super::foreign::Foreign;
use super::frames::Messages;
use super::http::answer;
use crate::config::{AllowedOrigin, origin};

/// The longest request in bytes, from its first byte to the empty line.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The most header lines of a request.
const MAX_HEADER_LINES: usize = 100;
/// The subprotocol that a JMQT client may offer.
const JMQT: &str = "jmqt";
/// The subprotocols of MQTT: of 3.1.1 and 5.0 (MQTT 5.0, 6), and of 3.1.
const MQTT: [&str; 2] = ["mqtt", "mqttv3.1"];
/// The path of health checks.
const HEALTH_PATH: &str = "/healthz";
/// The length of a `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_LENGTH: usize = 24;

/// The settings for answers to HTTP requests, shared by all connections.
#[derive(Debug, Default)]
pub(crate) struct HttpContext {
    /// The ports for WebSockets without and with TLS: those for JMQT, and those for MQTT.
    websockets: (Option<u16>, Option<u16>),
    mqtt_websockets: (Option<u16>, Option<u16>),
    /// The ports for JMQT take MQTT too.
    takes_mqtt: bool,
    /// Origins of other hosts whose pages may connect.
    allowed_origins: Vec<AllowedOrigin>,
    /// The reason to answer every health check with 503; `None` while the server is not stopping.
    unready: RwLock<Option<&'static str>>,
    check: Check,
}

/// Returns the reason to answer health checks with 503, if there is one.
#[derive(Default)]
struct Check(Option<Box<dyn Fn() -> Option<&'static str> + Send + Sync>>);

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}

impl HttpContext {
    /// Sets the WebSocket ports that the answer to a request at a wrong port names.
    pub(crate) fn new(websocket_port: Option<u16>, tls_websocket_port: Option<u16>) -> Self {
        Self { websockets: (websocket_port, tls_websocket_port), ..Self::default() }
    }

    /// Sets the same for MQTT.
    pub(crate) const fn with_mqtt_websockets(mut self, plain: Option<u16>, tls: Option<u16>) -> Self {
        self.mqtt_websockets = (plain, tls);
        self
    }

    /// Sets the origins whose pages may connect, in addition to the server's own host.
    pub(crate) fn with_allowed_origins(mut self, allowed: Vec<AllowedOrigin>) -> Self {
        self.allowed_origins = allowed;
        self
    }

    /// Sets whether the ports for JMQT take MQTT too.
    pub(crate) fn with_mqtt(mut self, takes_mqtt: bool) -> Self {
        self.takes_mqtt = takes_mqtt;
        self
    }

    pub(super) const fn takes_mqtt(&self) -> bool {
        self.takes_mqtt
    }

    /// Sets the function that returns a reason to answer health checks with 503.
    pub(crate) fn with_check(
        mut self,
        check: impl Fn() -> Option<&'static str> + Send + Sync + 'static,
    ) -> Self {
        self.check = Check(Some(Box::new(check)));
        self
    }

    /// Sets the reason to answer every health check with 503. `None`: the function decides again.
    pub(crate) fn set_unready(&self, reason: Option<&'static str>) {
        *self.unready.write().unwrap_or_else(std::sync::PoisonError::into_inner) = reason;
    }

    /// Returns `true` if the server is stopping.
    pub(crate) fn is_unready(&self) -> bool {
        self.unready.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    fn health(&self) -> (&'static str, &'static str) {
        let unready = *self.unready.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        match unready.or_else(|| self.check.0.as_ref().and_then(|check| check())) {
            None => ("200 OK", "ok"),
            Some(reason) => ("503 Service Unavailable", reason),
        }
    }

    /// The answer to an HTTP request at a plain socket port.
    pub(super) fn wrong_port(&self, is_for_mqtt: bool) -> Vec<u8> {
        let (language, websockets, of_language) = match is_for_mqtt {
            true => ("MQTT", self.mqtt_websockets, " for MQTT"),
            false => ("JMQT", self.websockets, ""),
        };
        let mut text = format!("This port is for {language} over TCP, not for HTTP or WebSocket.");
        // Infallible: writing to a `String` does not fail.
        let _ = match websockets {
            (None, None) => write!(text, " The server has no WebSocket port{of_language}."),
            (Some(port), None) => write!(text, " WebSockets connect to port {port} (ws)."),
            (None, Some(port)) => write!(text, " WebSockets connect to port {port} (wss)."),
            (Some(plain), Some(tls)) => {
                write!(text, " WebSockets connect to port {plain} (ws) or {tls} (wss).")
            }
        };
        answer("400 Bad Request", "", &text, true)
    }
}

/// The result of reading a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The request is incomplete.
    Incomplete,
    /// The connection is a WebSocket after the answer has been sent. `head_length` is the length of the request.
    Upgraded { answer: Vec<u8>, head_length: usize, messages: Messages },
    /// The request was a health check; the connection ends with the answer.
    Checked { answer: Vec<u8> },
    /// The origin of the page may not connect; the connection ends with the answer.
    ForeignPage { answer: Vec<u8>, origin: String },
    /// The client has the wrong port; the connection ends with the answer.
    WrongPort { answer: Vec<u8>, foreign: Foreign },
    /// The request was refused; the connection ends with the answer.
    Refused { answer: Vec<u8>, problem: String },
}

/// Reads the received part of a request. The first `seen` bytes were searched before.
pub(super) fn read(head: &[u8], seen: usize, messages: Messages, context: &HttpContext) -> Outcome {
    if let Some(foreign) = Foreign::of(head).filter(|foreign| *foreign != Foreign::Http) {
        return without_http(head, foreign, messages);
    }
    let Some(length) = head_length(head, seen) else {
        if head.len() >= MAX_HEAD_BYTES {
            return too_long();
        }
        return match head.first() {
            None | Some(b'A'..=b'Z' | b'\r' | b'\n') => Outcome::Incomplete,
            Some(_) => not_http(messages, "the first byte is not that of an HTTP request"),
        };
    };
    if length > MAX_HEAD_BYTES {
        return too_long();
    }
    let mut lines = [EMPTY_HEADER; MAX_HEADER_LINES];
    let mut request = httparse::Request::new(&mut lines);
    match request.parse(&head[..length]) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return not_http(messages, "the request ends too early"),
        Err(httparse::Error::TooManyHeaders) => {
            let problem = format!("the request has more than {MAX_HEADER_LINES} header lines");
            return refused("431 Request Header Fields Too Large", "", &sentence(&problem), &problem);
        }
        Err(error) => return not_http(messages, &format!("not an HTTP request: {error}")),
    }
    let request = Request {
        method: request.method.unwrap_or_default(),
        path: request.path.unwrap_or_default(),
        version: request.version.unwrap_or_default(),
        headers: request.headers,
        messages,
    };
    request.answer(context, length)
}

/// The length of the request including its empty line; `None` if it is incomplete.
fn head_length(head: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    memchr::memchr_iter(b'\n', &head[from..]).map(|at| from + at).find_map(|at| {
        let before = head[..at].strip_suffix(b"\r").unwrap_or(&head[..at]);
        before.ends_with(b"\n").then_some(at + 1)
    })
}

/// A request whose head is complete.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    /// The number after `HTTP/1.`.
    version: u8,
    headers: &'a [Header<'a>],
    /// What the port is for.
    messages: Messages,
}

impl<'a> Request<'a> {
    /// The values of all lines of this header.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        let of_that_name = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        of_that_name.filter_map(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    }

    /// The items of a header whose value is a list, which may span several lines (RFC 9110 §5.3).
    fn items(&self, name: &'static str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim)
    }

    fn answer(&self, context: &HttpContext, head_length: usize) -> Outcome {
        let wants_upgrade = self.items("Upgrade").any(|item| item.eq_ignore_ascii_case("websocket"));
        if wants_upgrade {
            return self.upgrade(context, head_length);
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let with_body = self.method != "HEAD";
        match self.method {
            // HAProxy's `option httpchk` uses OPTIONS by default.
            "OPTIONS" => {
                let (status, text) = context.health();
                Outcome::Checked { answer: answer(status, "Allow: GET, HEAD, OPTIONS\r\n", text, true) }
            }
            "GET" | "HEAD" if path == HEALTH_PATH => {
                let (status, text) = context.health();
                Outcome::Checked { answer: answer(status, "", text, with_body) }
            }
            "GET" | "HEAD" => Outcome::Refused {
                answer: answer(
                    "426 Upgrade Required",
                    "Upgrade: websocket\r\n",
                    &format!("{} GET /healthz is for health checks.", invitation(self.messages)),
                    with_body,
                ),
                problem: "an HTTP request that is not a WebSocket upgrade".to_owned(),
            },
            _ => refused(
                "405 Method Not Allowed",
                "Allow: GET, HEAD, OPTIONS\r\n",
                invitation(self.messages),
                "an HTTP method that is not GET",
            ),
        }
    }

    fn upgrade(&self, context: &HttpContext, head_length: usize) -> Outcome {
        let refuse = |problem: &str| refused("400 Bad Request", "", &sentence(problem), problem);
        if self.method != "GET" || self.version < 1 {
            return refuse("a WebSocket upgrade must be a GET request of HTTP/1.1");
        }
        if !self.items("Connection").any(|item| item.eq_ignore_ascii_case("upgrade")) {
            return refuse(
                "the WebSocket upgrade has no `Connection: Upgrade` (a proxy in front of the server must pass it on)",
            );
        }
        if !self.values("Sec-WebSocket-Version").eq(["13"]) {
            let problem = "the header Sec-WebSocket-Version is not 13";
            let version = "Sec-WebSocket-Version: 13\r\n";
            return refused("426 Upgrade Required", version, &sentence(problem), problem);
        }
        let mut keys = self.values("Sec-WebSocket-Key");
        let (Some(key), None) = (keys.next().filter(|key| key.len() == KEY_LENGTH), keys.next()) else {
            return refuse("the WebSocket upgrade needs one header Sec-WebSocket-Key of 16 bytes in base64");
        };
        // Every line counts, including lines that are not UTF-8: an unknown origin is refused.
        let mut origins = self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("Origin"));
        let host = self.values("Host").next();
        let foreign = origins.find_map(|header| {
            let origin = String::from_utf8_lossy(header.value).trim().to_owned();
            (!origin::is_allowed(&origin, host, &context.allowed_origins)).then_some(origin)
        });
        if let Some(origin) = foreign {
            let text = "Pages of this origin may not connect: the server has another host name. The operator of the \
                        server can add the origin to ALLOWED_ORIGINS; a proxy in front of the server must pass on the \
                        header Host as it is.";
            return Outcome::ForeignPage { answer: answer("403 Forbidden", "", text, true), origin };
        }
        let mut offered = self.items("Sec-WebSocket-Protocol");
        let chosen = match self.messages {
            Messages::Texts if context.takes_mqtt => {
                offered.find(|item| *item == JMQT || MQTT.contains(item))
            }
            Messages::Texts => {
                let offered: Vec<_> = offered.collect();
                let jmqt = offered.iter().find(|item| **item == JMQT).copied();
                if jmqt.is_none() && offered.iter().any(|item| MQTT.contains(item)) {
                    let text = "This port is for JMQT. MQTT clients connect to another one (MQTT_WEBSOCKET_PORT), or to \
                                this one if the server has MQTT_ON_JMQT_PORTS = true.";
                    return Outcome::WrongPort {
                        answer: answer("400 Bad Request", "", text, true),
                        foreign: Foreign::MqttWebSocket,
                    };
                }
                jmqt
            }
            Messages::Stream => match offered.find(|item| MQTT.contains(item)) {
                None => {
                    return refuse(
                        "this port is for MQTT over WebSocket: the upgrade must offer the subprotocol `mqtt` (header \
                         Sec-WebSocket-Protocol)",
                    );
                }
                chosen => chosen,
            },
        };
        let messages = match chosen {
            Some(name) if name != JMQT => Messages::Stream,
            _ => Messages::Texts,
        };
        let subprotocol =
            chosen.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n{subprotocol}\r\n",
            derive_accept_key(key.as_bytes())
        );
        Outcome::Upgraded { answer: answer.into_bytes(), head_length, messages }
    }
}

/// Refuses a client that does not send HTTP.
fn without_http(head: &[u8], foreign: Foreign, messages: Messages) -> Outcome {
    let answer = match foreign {
        Foreign::Jmqt | Foreign::Mqtt => {
            let text = "this port is for WebSockets: clients without WebSocket connect to another one";
            match foreign.answer(head, text) {
                Some(answer) => answer,
                None if head.len() >= MAX_HEAD_BYTES => Vec::new(),
                None => return Outcome::Incomplete,
            }
        }
        Foreign::Tls => {
            let text = "This port is for plain WebSockets (ws), and TLS was received.";
            answer("400 Bad Request", "", text, true)
        }
        _ => answer("400 Bad Request", "", invitation(messages), true),
    };
    Outcome::WrongPort { answer, foreign }
}

fn not_http(messages: Messages, problem: &str) -> Outcome {
    refused("400 Bad Request", "", invitation(messages), problem)
}

/// How to connect to a port.
const fn invitation(messages: Messages) -> &'static str {
    match messages {
        Messages::Texts => "This is a JMQT server. Connect to this port with a WebSocket.",
        Messages::Stream => {
            "This is an MQTT server. Connect to this port with a WebSocket that has the subprotocol `mqtt`."
        }
    }
}

fn too_long() -> Outcome {
    let problem = format!("the request is longer than {MAX_HEAD_BYTES} bytes");
    refused("431 Request Header Fields Too Large", "", &sentence(&problem), &problem)
}

fn refused(status: &str, headers: &str, text: &str, problem: &str) -> Outcome {
    Outcome::Refused { answer: answer(status, headers, text, true), problem: problem.to_owned() }
}

/// The problem as a complete sentence.
fn sentence(problem: &str) -> String {
    let mut letters = problem.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn ask(request: &str) -> Outcome {
        ask_for(Messages::Texts, request)
    }

    fn ask_for(messages: Messages, request: &str) -> Outcome {
        read(request.as_bytes(), 0, messages, &HttpContext::default())
    }

    /// The status and the text of an answer.
    fn told(outcome: &Outcome) -> (u16, String) {
        let answer = match outcome {
            Outcome::Incomplete => panic!("there is no answer"),
            Outcome::Upgraded { answer, .. }
            | Outcome::Checked { answer }
            | Outcome::ForeignPage { answer, .. }
            | Outcome::WrongPort { answer, .. }
            | Outcome::Refused { answer, .. } => answer,
        };
        let answer = std::str::from_utf8(answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        if status != 101 {
            let length = format!("Content-Length: {}\r\n", text.len());
            assert!(head.contains(&length) || text.is_empty(), "{answer}");
        }
        (status, text.to_owned())
    }

    #[test] // RFC 9110 §5.3: a list may be spread over lines of the same name
    fn connection_and_upgrade_may_be_on_separate_lines() {
        let upgrade = format!(
            "GET /chat?x=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nconnection: foo , UPGRADE\r\n\
             Upgrade: WebSocket\r\n{KEY}\r\n"
        );
        let Outcome::Upgraded { answer, head_length, .. } = ask(&upgrade) else { panic!("not upgraded") };
        assert_eq!(head_length, upgrade.len());
        let answer = String::from_utf8(answer).unwrap();
        // The example of RFC 6455 §1.3.
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(!answer.contains("Sec-WebSocket-Protocol"), "{answer}");
    }

    #[test] // RFC 6455 §4.2.2: an offered subprotocol is answered, another is not
    fn the_subprotocol_jmqt_is_answered_when_it_is_offered() {
        for (offered, is_answered) in [("jmqt", true), ("mqtt, jmqt", true), ("soap", false), ("JMQT", false)]
        {
            let upgrade = format!(
                "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}Sec-WebSocket-Protocol: {offered}\r\n\r\n"
            );
            let Outcome::Upgraded { answer, .. } = ask(&upgrade) else { panic!("not upgraded: {offered}") };
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(answer.contains("Sec-WebSocket-Protocol: jmqt\r\n"), is_answered, "{offered}");
        }
    }

    #[test] // MQTT 5.0, 6 [MQTT-6.0.0-4]
    fn the_first_offered_subprotocol_of_mqtt_is_answered_and_one_is_required() {
        for (lines, chosen) in [
            ("Sec-WebSocket-Protocol: mqtt\r\n", Some("mqtt")),
            ("Sec-WebSocket-Protocol: jmqt, mqttv3.1\r\nSec-WebSocket-Protocol: mqtt\r\n", Some("mqttv3.1")),
            ("Sec-WebSocket-Protocol: jmqt\r\n", None),
            ("Sec-WebSocket-Protocol: MQTT\r\n", None),
            ("", None),
        ] {
            let upgrade =
                format!("GET /any HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}{lines}\r\n");
            match (ask_for(Messages::Stream, &upgrade), chosen) {
                (Outcome::Upgraded { answer, .. }, Some(chosen)) => {
                    let answer = String::from_utf8(answer).unwrap();
                    assert!(answer.contains(&format!("Sec-WebSocket-Protocol: {chosen}\r\n")), "{answer}");
                }
                (outcome, None) => {
                    let (status, text) = told(&outcome);
                    assert_eq!(status, 400, "{lines}");
                    assert!(text.contains("must offer the subprotocol `mqtt`"), "{text}");
                }
                (outcome, _) => panic!("{lines}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn the_first_offered_subprotocol_decides_on_a_port_for_both_languages() {
        let context = HttpContext::default().with_mqtt(true);
        for (lines, chosen, expected) in [
            ("Sec-WebSocket-Protocol: mqtt, jmqt\r\n", Some("mqtt"), Messages::Stream),
            ("Sec-WebSocket-Protocol: other, jmqt, mqtt\r\n", Some("jmqt"), Messages::Texts),
            ("Sec-WebSocket-Protocol: other\r\n", None, Messages::Texts),
            ("", None, Messages::Texts),
        ] {
            let upgrade =
                format!("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}{lines}\r\n");
            let outcome = read(upgrade.as_bytes(), 0, Messages::Texts, &context);
            let Outcome::Upgraded { answer, messages, .. } = outcome else { panic!("not upgraded: {lines}") };
            let answer = String::from_utf8(answer).unwrap();
            let line = answer.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
            assert_eq!((line, messages), (chosen, expected), "{lines}");
        }
    }

    #[test]
    fn a_hundred_header_lines_are_accepted_and_more_are_refused_by_number() {
        let upgrade = |extra: usize| {
            let lines: String = (0..extra).map(|number| format!("X-{number}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\n{lines}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n")
        };
        assert!(matches!(ask(&upgrade(MAX_HEADER_LINES - 4)), Outcome::Upgraded { .. }));
        let (status, text) = told(&ask(&upgrade(MAX_HEADER_LINES - 3)));
        assert_eq!((status, text.as_str()), (431, "The request has more than 100 header lines.\n"));
    }

    #[test]
    fn a_request_that_never_ends_is_refused() {
        let mut request = "GET / HTTP/1.1\r\nX: ".to_owned();
        request.push_str(&"y".repeat(MAX_HEAD_BYTES - request.len() - 1));
        assert!(matches!(ask(&request), Outcome::Incomplete));
        request.push('y');
        assert_eq!(told(&ask(&request)).0, 431);
        request.push_str("\r\n\r\n");
        assert_eq!(told(&ask(&request)).0, 431);
    }

    #[test]
    fn health_checks_are_answered() {
        let context = HttpContext::default();
        let ask = |request: &str| told(&read(request.as_bytes(), 0, Messages::Texts, &context));
        assert_eq!(ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), (200, "ok\n".to_owned()));
        assert_eq!(ask("GET /healthz?a=b HTTP/1.0\r\n\r\n"), (200, "ok\n".to_owned()));
        assert_eq!(ask("HEAD /healthz HTTP/1.1\r\n\r\n"), (200, String::new()));
        assert_eq!(ask("OPTIONS / HTTP/1.0\r\n\r\n").0, 200); // HAProxy's `option httpchk`
        context.set_unready(Some("stopping"));
        assert_eq!(ask("GET /healthz HTTP/1.1\r\n\r\n"), (503, "stopping\n".to_owned()));
        assert_eq!(ask("OPTIONS * HTTP/1.1\r\n\r\n").0, 503);
    }

    #[test]
    fn health_checks_report_a_problem_while_it_lasts() {
        let trouble = std::sync::Arc::new(RwLock::new(None));
        let found = std::sync::Arc::clone(&trouble);
        let context = HttpContext::default().with_check(move || *found.read().unwrap());
        let ask = || told(&read(b"GET /healthz HTTP/1.1\r\n\r\n", 0, Messages::Stream, &context));
        assert_eq!(ask().0, 200);
        *trouble.write().unwrap() = Some("the database is away");
        assert_eq!(ask(), (503, "the database is away\n".to_owned()));
        context.set_unready(Some("stopping"));
        assert_eq!(ask(), (503, "stopping\n".to_owned()));
        context.set_unready(None);
        *trouble.write().unwrap() = None;
        assert_eq!(ask().0, 200);
    }

    #[test]
    fn every_other_request_gets_an_explanation() {
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        for (request, status, part) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426, "with a WebSocket"),
            ("GET /healthz/x HTTP/1.1\r\n\r\n".to_owned(), 426, "/healthz"),
            ("POST / HTTP/1.1\r\n\r\n".to_owned(), 405, "with a WebSocket"),
            (format!("POST / HTTP/1.1\r\n{upgrade}{KEY}\r\n"), 400, "GET request"),
            (format!("GET / HTTP/1.0\r\n{upgrade}{KEY}\r\n"), 400, "HTTP/1.1"),
            (format!("GET / HTTP/1.1\r\nUpgrade: websocket\r\n{KEY}\r\n"), 400, "`Connection: Upgrade`"),
            (format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 8\r\n\r\n"), 426, "not 13"),
            (
                format!("GET / HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 13\r\n\r\n"),
                400,
                "Sec-WebSocket-Key",
            ),
            (format!("GET / HTTP/1.1\r\n{upgrade}{KEY}Sec-WebSocket-Key: x\r\n\r\n"), 400, "one header"),
            ("GET / HTTP/9\r\n\r\n".to_owned(), 400, "with a WebSocket"),
            ("(conn)\0".to_owned(), 400, "with a WebSocket"),
            ("\x16\x03\x01\0".to_owned(), 400, "TLS"),
        ] {
            let (found, text) = told(&ask(&request));
            assert_eq!(found, status, "{request}");
            assert!(text.contains(part), "{request}: {text}");
        }
    }

    #[test]
    fn the_port_for_mqtt_names_its_subprotocol() {
        for request in ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "MQTT\n\n"] {
            let (_, text) = told(&ask_for(Messages::Stream, request));
            assert!(text.contains("the subprotocol `mqtt`"), "{request}: {text}");
        }
    }

    #[test] // RFC 6454: browsers say which page connects
    fn a_page_of_another_host_is_refused_unless_it_is_listed() {
        let upgrade = |lines: &str| {
            format!("GET / HTTP/1.1\r\n{lines}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n")
        };
        let listed = vec!["https://app.example".parse().unwrap()];
        let context = HttpContext::new(None, None).with_allowed_origins(listed);
        for (lines, status) in [
            ("Host: x:8012\r\n", 101),
            ("Host: x:8012\r\nOrigin: http://x:8000\r\n", 101),
            ("Host: x:8012\r\nOrigin: https://app.example\r\n", 101),
            ("Host: x:8012\r\nOrigin: https://evil.example\r\n", 403),
            ("Host: x:8012\r\nOrigin: http://x:8000\r\nOrigin: https://evil.example\r\n", 403),
            ("Host: x:8012\r\nOrigin: \u{e9}\r\n", 403),
            ("Host: x:8012\r\nOrigin: null\r\n", 403),
            ("Origin: http://x\r\n", 403),
        ] {
            let outcome = read(upgrade(lines).as_bytes(), 0, Messages::Texts, &context);
            let (found, text) = told(&outcome);
            assert_eq!(found, status, "{lines}");
            assert_eq!(status == 403, text.contains("ALLOWED_ORIGINS"), "{text}");
        }
    }

    #[test]
    fn the_answer_on_a_wrong_port_names_the_right_ports() {
        for (plain, tls, part) in [
            (Some(1), Some(2), "port 1 (ws) or 2 (wss)"),
            (Some(1), None, "port 1 (ws)."),
            (None, Some(2), "port 2 (wss)."),
            (None, None, "no WebSocket port"),
        ] {
            let answer = String::from_utf8(HttpContext::new(plain, tls).wrong_port(false)).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(part), "{answer}");
        }
    }
}
