//! Where an MQTT server is: `mqtt://host:1883` and its three relatives.

use std::fmt;
use std::str::FromStr;

use super::Password;
use crate::endpoint::{check_path, split_port};
use crate::{Endpoint, InvalidUrl, Protocol};

const SCHEMES: [(&str, Protocol, u16); 4] = [
    ("mqtt", Protocol::Socket, 1883),
    ("mqtts", Protocol::SslSocket, 8883),
    ("mqtt+ws", Protocol::WebSocket, 8083),
    ("mqtt+wss", Protocol::SslWebSocket, 8084),
];

/// A server's address, parsed from a URL, with the user name and password that stand in it. Neither is shown by `Display` and
/// `Debug`.
///
/// ```
/// use jmqt_client::mqtt::Server;
///
/// let server: Server = "mqtts://lamp:secret@example.com".parse()?;
/// assert_eq!(server.to_string(), "mqtts://example.com:8883");
/// # Ok::<(), jmqt_client::InvalidUrl>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    pub(crate) endpoint: Endpoint,
    pub(crate) login: Option<(String, Option<Password>)>,
}

impl Server {
    /// The servers of one or more URLs with commas in between.
    ///
    /// # Errors
    /// [`InvalidUrl`] names the first invalid URL and its mistake.
    pub fn list(urls: &str) -> Result<Vec<Self>, InvalidUrl> {
        urls.split(',').map(str::parse).collect()
    }

    /// Whether a text begins like the URL of an MQTT server.
    #[must_use]
    pub fn is_url(text: &str) -> bool {
        let scheme = text.trim().split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| SCHEMES.iter().any(|(known, ..)| known.eq_ignore_ascii_case(scheme)))
    }

    /// The host: a name or an IP address, without the brackets of an IPv6 one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.endpoint.port
    }

    /// The user name in the URL.
    #[must_use]
    pub fn user_name(&self) -> Option<&str> {
        self.login.as_ref().map(|(name, _)| name.as_str())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.endpoint.protocol;
        let scheme =
            SCHEMES.iter().find(|(_, known, _)| *known == protocol).map_or("mqtt", |(name, ..)| name);
        write!(f, "{scheme}://{}", self.endpoint.authority())?;
        if protocol.is_websocket() { f.write_str(&self.endpoint.path) } else { Ok(()) }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl FromStr for Server {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("the scheme is missing"))?;
        let &(_, protocol, usual_port) = SCHEMES
            .iter()
            .find(|(known, ..)| known.eq_ignore_ascii_case(scheme))
            .ok_or_else(|| invalid(format!("`{}` is no scheme of MQTT", scheme.escape_debug())))?;
        let authority_ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_ends);
        if !authority.contains('@') && path.contains('@') && !protocol.is_websocket() {
            return Err(invalid("`/`, `?` and `#` in a password are written as %2F, %3F and %23"));
        }
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, authority),
        };
        let (host, port) = split_port(authority).map_err(|error| invalid(error.problem()))?;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(invalid("the host is missing"));
        }
        let path = match path {
            "" if protocol.is_websocket() => "/mqtt".to_owned(),
            path => check_path(protocol, path).map_err(|error| invalid(error.problem()))?,
        };
        let endpoint = Endpoint { protocol, host: host.to_owned(), port: port.unwrap_or(usual_port), path };
        Ok(Self { endpoint, login: login.map(read_login).transpose()? })
    }
}

fn read_login(login: &str) -> Result<(String, Option<Password>), InvalidUrl> {
    let text = |part: &str| {
        let bytes = percent_decoded(part).ok_or_else(|| {
            invalid("a `%` in user name or password is not followed by two hexadecimal digits")
        })?;
        Ok::<_, InvalidUrl>(bytes)
    };
    let (name, password) = match login.split_once(':') {
        Some((name, password)) => (name, Some(text(password)?)),
        None => (login, None),
    };
    let name = String::from_utf8(text(name)?).map_err(|_| invalid("the user name is not UTF-8"))?;
    Ok((name, password.map(Password::from)))
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

fn invalid(problem: impl Into<String>) -> InvalidUrl {
    InvalidUrl::of_mqtt(problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_and_a_path_left_out_are_the_usual_ones() {
        for (url, shown) in [
            ("mqtt://a", "mqtt://a:1883"),
            ("MQTTS://a/", "mqtts://a:8883"),
            ("mqtt+ws://a", "mqtt+ws://a:8083/mqtt"),
            ("mqtt+wss://[::1]:9/", "mqtt+wss://[::1]:9/"),
            ("mqtt+ws://a/x?y=1", "mqtt+ws://a:8083/x?y=1"),
        ] {
            assert_eq!(url.parse::<Server>().unwrap().to_string(), shown);
        }
        assert_eq!(Server::list("mqtt://a, mqtts://b").unwrap().len(), 2);
        assert!(Server::is_url("mqtt+ws://a") && !Server::is_url("ws://a") && !Server::is_url("mqtt"));
    }

    #[test]
    fn user_name_and_password_are_read_and_never_shown() {
        let server: Server = "mqtt://me%40home:se%3Acret%2F@a:1".parse().unwrap();
        let (name, password) = server.login.clone().unwrap();
        assert_eq!((name.as_str(), password.unwrap().reveal()), ("me@home", &b"se:cret/"[..]));
        assert!(!format!("{server} {server:?}").contains("cret"));
        let error = "mqtt://me:secret@a:b".parse::<Server>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_text_that_is_not_a_url_is_refused_with_the_reason() {
        for (url, problem) in [
            ("localhost", "the scheme is missing"),
            ("tcp://a", "`tcp` is no scheme of MQTT"),
            ("mqtt://", "the host is missing"),
            ("mqtt://a:0", "the port is not"),
            ("mqtt://a/x", "only a WebSocket has a path"),
            ("mqtt://a:b/c@d", "`/`, `?` and `#` in a password"),
            ("mqtt://a%4@b", "a `%` in user name or password"),
        ] {
            let error = url.parse::<Server>().unwrap_err().to_string();
            assert!(error.starts_with(problem) && error.contains("mqtt+wss://"), "{error}");
        }
    }
}
