//! The HTTP request that began a WebSocket, for the validators of `auth` and `conn`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The HTTP request that began a WebSocket: path, query, headers and cookies.
///
/// The server keeps at most 16 KiB of it, until the `conn` of the connection is accepted, so an idle connection needs
/// no memory for it. Store values that are needed longer in the session data
/// ([`ConnVerdict::attach`](crate::ConnVerdict::attach)), or a clone of this `Arc`.
///
/// Clients can send any headers. Do not log cookies and `Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub struct Upgrade(Box<str>);

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upgrade({} bytes)", self.0.len())
    }
}

impl Upgrade {
    /// Parses a validated request. Bytes that are not UTF-8 are replaced.
    pub(crate) fn new(head: &[u8]) -> Self {
        Self(String::from_utf8_lossy(head).into())
    }

    fn target(&self) -> &str {
        self.0.split(' ').nth(1).unwrap_or_default()
    }

    /// The requested path without the query: `/chat`. Percent encoding is kept.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// The query without its `?`: `room=1&x=y`. Percent encoding is kept.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// All headers in order: names as sent, values without surrounding white space.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.0.lines().skip(1).take_while(|line| !line.is_empty());
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
    }

    /// The first header with this name, ignoring case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let of_that_name: Vec<&str> =
            self.headers().filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect();
        of_that_name.into_iter()
    }

    /// The origin of the web page that connects; `None` for clients that are not browsers. It has been checked
    /// against ALLOWED_ORIGINS.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.header("Origin")
    }

    /// The value of a cookie.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.headers().filter(|(of, _)| of.eq_ignore_ascii_case("Cookie"));
        let mut pairs =
            cookies.flat_map(|(_, value)| value.split(';')).filter_map(|pair| pair.split_once('='));
        pairs.find(|(of, _)| of.trim() == name).map(|(_, value)| value.trim())
    }

    /// The address of the client according to the proxies before the server: the last address in `X-Forwarded-For`,
    /// or otherwise `Forwarded`, that is not a proxy's.
    pub(crate) fn forwarded_for(&self, is_proxy: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        let mut hops: Vec<Option<SocketAddr>> =
            self.all("X-Forwarded-For").flat_map(|value| value.split(',')).map(address).collect();
        if hops.is_empty() {
            let elements = self.all("Forwarded").flat_map(|value| value.split(','));
            hops = elements.map(forwarded_element).collect();
        }
        let mut client = None;
        for hop in hops.into_iter().rev() {
            // Entries before an unreadable hop cannot be trusted.
            let Some(hop) = hop else { break };
            client = Some(hop);
            if !is_proxy(hop.ip()) {
                break;
            }
        }
        client
    }
}

/// Parses `192.0.2.7`, `192.0.2.7:40000`, `2001:db8::1`, `[2001:db8::1]:40000`; the port is 0 if it is missing.
fn address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().map(|ip| SocketAddr::new(ip, 0));
    let address = ip.or_else(|| text.parse().ok())?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Parses `for=192.0.2.7;proto=https` (RFC 7239).
fn forwarded_element(element: &str) -> Option<SocketAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_query_headers_and_cookies_are_found() {
        let upgrade = Upgrade::new(
            b"GET /chat?room=1&x=a%20b HTTP/1.1\r\nHost: x\r\norigin:  http://x \r\nCookie: a=1; session=\xff=2\r\n\
              COOKIE: b=3\r\nX-Empty:\r\n\r\nleft: over\r\n",
        );
        assert_eq!((upgrade.path(), upgrade.query()), ("/chat", Some("room=1&x=a%20b")));
        assert_eq!(upgrade.origin(), Some("http://x"));
        assert_eq!((upgrade.header("HOST"), upgrade.header("x-empty")), (Some("x"), Some("")));
        assert_eq!((upgrade.cookie("a"), upgrade.cookie("b")), (Some("1"), Some("3")));
        assert_eq!(upgrade.cookie("session"), Some("\u{fffd}=2"));
        assert_eq!((upgrade.cookie("A"), upgrade.header("left")), (None, None));
        assert_eq!(upgrade.headers().count(), 5);
        assert_eq!(Upgrade::new(b"GET / HTTP/1.1\r\n\r\n").query(), None);
        assert!(!format!("{upgrade:?}").contains("session"));
    }

    #[test] // a client can write in front of what proxies append, and nowhere else
    fn the_client_is_the_last_address_that_is_not_a_proxys() {
        let client = |headers: &str| {
            let upgrade = Upgrade::new(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes());
            let is_proxy = |ip: IpAddr| ip.to_string().starts_with("10.");
            upgrade.forwarded_for(is_proxy).map(|address| address.to_string())
        };
        for (headers, expected) in [
            ("", None),
            ("X-Forwarded-For: 192.0.2.7\r\n", Some("192.0.2.7:0")),
            ("X-Forwarded-For: 1.1.1.1, 192.0.2.7:4000 , 10.0.0.1\r\n", Some("192.0.2.7:4000")),
            ("X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2001:db8::1\r\n", Some("[2001:db8::1]:0")),
            ("X-Forwarded-For: [2001:db8::1]:7\r\n", Some("[2001:db8::1]:7")),
            ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", Some("192.0.2.7:0")),
            ("X-Forwarded-For: 10.0.0.2, 10.0.0.1\r\n", Some("10.0.0.2:0")),
            ("X-Forwarded-For: 1.1.1.1, nonsense, 10.0.0.1\r\n", Some("10.0.0.1:0")),
            ("X-Forwarded-For: 1.1.1.1, unknown\r\n", None),
            ("Forwarded: for=1.1.1.1, for=\"[2001:db8::1]:7\";proto=https\r\n", Some("[2001:db8::1]:7")),
            ("Forwarded: proto=https;For=192.0.2.7\r\n", Some("192.0.2.7:0")),
            ("Forwarded: for=1.1.1.1, for=_hidden\r\n", None),
        ] {
            assert_eq!(client(headers).as_deref(), expected, "{headers}");
        }
    }
}
