//! Where a server is: `jmqt://host:8010` and its three relatives (§3, §11).

use std::fmt;
use std::str::FromStr;

/// How packets travel to the server (§3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// `jmqt://`: a plain TCP socket, port 8010 unless said otherwise.
    Socket,
    /// `jmqts://`: the same inside TLS, port 8011.
    SslSocket,
    /// `ws://`: a WebSocket, port 8012.
    WebSocket,
    /// `wss://`: the same inside TLS, port 8013.
    SslWebSocket,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Socket, Self::SslSocket, Self::WebSocket, Self::SslWebSocket];

    /// What a URL of this protocol begins with, up to the colon.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Socket => "jmqt",
            Self::SslSocket => "jmqts",
            Self::WebSocket => "ws",
            Self::SslWebSocket => "wss",
        }
    }

    /// The port that a URL need not name.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Socket => 8010,
            Self::SslSocket => 8011,
            Self::WebSocket => 8012,
            Self::SslWebSocket => 8013,
        }
    }

    /// Whether the bytes are encrypted.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::SslSocket | Self::SslWebSocket)
    }

    /// Whether packets are WebSocket messages.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SslWebSocket)
    }

    /// The same with TLS, or without.
    #[must_use]
    pub const fn with_tls(self, tls: bool) -> Self {
        match (self.is_websocket(), tls) {
            (false, false) => Self::Socket,
            (false, true) => Self::SslSocket,
            (true, false) => Self::WebSocket,
            (true, true) => Self::SslWebSocket,
        }
    }
}

/// A server's address, parsed from a URL.
///
/// ```
/// use jmqt_client::{Endpoint, Protocol};
///
/// let endpoint: Endpoint = "wss://jmqt.example.com/live".parse()?;
/// assert_eq!(endpoint.protocol, Protocol::SslWebSocket);
/// assert_eq!((endpoint.host.as_str(), endpoint.port), ("jmqt.example.com", 8013));
/// # Ok::<(), jmqt_client::InvalidUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// How packets travel.
    pub protocol: Protocol,
    /// A name or an IP address, without the brackets of an IPv6 one.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// What a WebSocket asks for, beginning with a slash. Default `/`.
    pub path: String,
}

/// A text is not the URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; expected a URL such as {expected}")]
pub struct InvalidUrl {
    problem: String,
    expected: &'static str,
}

impl InvalidUrl {
    /// Of a URL that was to name an MQTT server.
    pub(crate) const fn of_mqtt(problem: String) -> Self {
        Self {
            problem,
            expected: "mqtt://host:1883, mqtts://host:8883, mqtt+ws://host:8083/mqtt or mqtt+wss://host:8084/mqtt",
        }
    }

    /// For "expected …".
    pub(crate) fn as_expected(&self) -> String {
        format!("a URL such as {}: {}", self.expected, self.problem)
    }

    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }
}

impl Endpoint {
    /// The server at this host, on the protocol's default port.
    #[must_use]
    pub fn new(protocol: Protocol, host: impl Into<String>) -> Self {
        Self { protocol, host: host.into(), port: protocol.default_port(), path: "/".to_owned() }
    }

    /// The servers of one or more URLs with commas in between.
    ///
    /// # Errors
    /// [`InvalidUrl`] names the first invalid URL and its mistake.
    pub fn list(urls: &str) -> Result<Vec<Self>, InvalidUrl> {
        urls.split(',').map(str::parse).collect()
    }

    /// Host and port, as a WebSocket's `Host` header and a resolver want them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol.scheme(), self.authority())?;
        if self.protocol.is_websocket() { f.write_str(&self.path) } else { Ok(()) }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("the scheme is missing"))?;
        let protocol = Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.scheme().eq_ignore_ascii_case(scheme))
            .ok_or_else(|| invalid(format!("`{}` is no scheme of a JMQT server", scheme.escape_debug())))?;
        let authority_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_ends);
        if authority.contains('@') {
            // Not quoted: it may be a password.
            return Err(invalid(
                "a user name or password has no place in it: credentials are given as auth data",
            ));
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(invalid("the host is missing"));
        }
        let path = check_path(protocol, path)?;
        Ok(Self { protocol, host: host.to_owned(), port: port.unwrap_or(protocol.default_port()), path })
    }
}

pub(crate) fn split_port(authority: &str) -> Result<(&str, Option<u16>), InvalidUrl> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| invalid("a `]` is missing"))?;
        (host, after.strip_prefix(':'))
    } else {
        match authority.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(invalid("an IPv6 address must be in brackets, as in jmqt://[::1]:8010"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    match port.map(str::parse) {
        None => Ok((host, None)),
        Some(Ok(port @ 1..)) => Ok((host, Some(port))),
        Some(_) => Err(invalid("the port is not a number from 1 to 65535")),
    }
}

pub(crate) fn check_path(protocol: Protocol, path: &str) -> Result<String, InvalidUrl> {
    if !protocol.is_websocket() && !matches!(path, "" | "/") {
        return Err(invalid("only a WebSocket has a path"));
    }
    if path.contains('#') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid("the path has a character that may not be there"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

fn invalid(problem: impl Into<String>) -> InvalidUrl {
    InvalidUrl {
        problem: problem.into(),
        expected: "jmqt://host:8010, jmqts://host:8011, ws://host:8012/ or wss://host:8013/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> String {
        url.parse::<Endpoint>().unwrap().to_string()
    }

    #[test] // §11
    fn a_port_left_out_is_the_protocols_own() {
        assert_eq!(parsed("jmqt://localhost"), "jmqt://localhost:8010");
        assert_eq!(parsed("JMQTS://localhost/"), "jmqts://localhost:8011");
        assert_eq!(parsed("ws://localhost"), "ws://localhost:8012/");
        assert_eq!(parsed("wss://[::1]/x?y=1"), "wss://[::1]:8013/x?y=1");
        assert_eq!(parsed("jmqt://[::1]:9"), "jmqt://[::1]:9");
    }

    #[test]
    fn several_servers_are_named_with_commas_in_between() {
        let list = Endpoint::list("jmqt://a, wss://b/x").unwrap();
        assert_eq!(
            (list[0].to_string().as_str(), list[1].to_string().as_str()),
            ("jmqt://a:8010", "wss://b:8013/x")
        );
        assert!(Endpoint::list("jmqt://a,").is_err());
    }

    #[test]
    fn a_text_that_is_not_a_server_url_is_refused_with_the_reason() {
        for (url, problem) in [
            ("localhost:8010", "the scheme is missing"),
            ("http://localhost", "`http` is no scheme"),
            ("jmqt://", "the host is missing"),
            ("jmqt://:8010", "the host is missing"),
            ("jmqt://a:0", "the port is not"),
            ("jmqt://a:65536", "the port is not"),
            ("jmqt://a:b", "the port is not"),
            ("jmqt://::1:8010", "an IPv6 address must be in brackets"),
            ("jmqt://[::1", "a `]` is missing"),
            ("jmqt://a/path", "only a WebSocket has a path"),
            ("ws://a/pa th", "the path has a character"),
            ("jmqt://me:secret@a", "a user name or password"),
        ] {
            let error = url.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.starts_with(problem), "{url}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
