//! Decides which pages may connect: ALLOWED_ORIGINS, and the header `Origin` of browsers (RFC 6454).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An item of ALLOWED_ORIGINS.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllowedOrigin {
    /// `*`: pages from anywhere.
    Any,
    /// Pages from this origin: scheme, host and port, in lower case and without the default port of the scheme; or `null`,
    /// which browsers send for pages without an origin, such as files.
    Exact(String),
}

/// The text is not `*`, `null`, or an origin such as `https://example.com:8443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is `*`, `null`, or a scheme, `://`, a host and an optional port")]
pub struct InvalidOrigin;

impl FromStr for AllowedOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        match text {
            "*" => Ok(Self::Any),
            "null" => Ok(Self::Exact(text.to_owned())),
            _ => normalized(text).map(Self::Exact).ok_or(InvalidOrigin),
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::Exact(origin) => origin,
        })
    }
}

/// Returns `true` if a page of this origin may connect to the server under this `Host`: both have the same host
/// name (ports are ignored, and all loopback names are equal), or the origin is listed.
pub(crate) fn is_allowed(origin: &str, host: Option<&str>, listed: &[AllowedOrigin]) -> bool {
    let normal = normalized(origin);
    let is_listed = |allowed: &AllowedOrigin| match allowed {
        AllowedOrigin::Any => true,
        AllowedOrigin::Exact(allowed) => normal.as_deref().unwrap_or(origin) == allowed,
    };
    let of_page = normal.as_ref().and_then(|normal| normal.split_once("://")).map(|(_, of)| host_name(of));
    let of_server = host.map(|host| host_name(host.trim()).to_ascii_lowercase());
    let is_same = match (of_page, &of_server) {
        (Some(page), Some(server)) => page == server || is_loopback(page) && is_loopback(server),
        _ => false,
    };
    is_same || listed.iter().any(is_listed)
}

/// `scheme://host[:port]` in lower case, without the default port of the scheme.
fn normalized(origin: &str) -> Option<String> {
    let mut origin = origin.trim().to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
    if scheme.is_empty() || host_name(authority).is_empty() || !authority.chars().all(is_host) {
        return None;
    }
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    if !usual.is_empty()
        && authority.len() == host_name(authority).len() + usual.len()
        && origin.ends_with(usual)
    {
        origin.truncate(origin.len() - usual.len());
    }
    Some(origin)
}

/// The host of `host[:port]`; an IPv6 address is in brackets.
fn host_name(authority: &str) -> &str {
    match authority.find(']') {
        Some(end) if authority.starts_with('[') => &authority[..=end],
        _ => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost"
        || host.ends_with(".localhost")
        || address.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || address.parse::<Ipv6Addr>().is_ok_and(|address| IpAddr::V6(address).to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: &str, host: &str, listed: &[&str]) -> bool {
        let listed: Vec<AllowedOrigin> = listed.iter().map(|text| text.parse().unwrap()).collect();
        is_allowed(origin, Some(host), &listed)
    }

    #[test]
    fn a_page_of_the_same_host_is_allowed_on_any_port() {
        for (origin, host) in [
            ("http://example.com", "example.com"),
            ("http://example.com:8000", "example.com:8012"),
            ("https://EXAMPLE.com", "example.COM:8013"),
            ("http://[2001:db8::1]:8000", "[2001:db8::1]:8012"),
            ("http://localhost:8000", "127.0.0.1:8012"),
            ("http://127.0.0.1:8000", "[::1]:8012"),
        ] {
            assert!(allowed(origin, host, &[]), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "example.com"),
            ("http://example.com.evil.example", "example.com"),
            ("http://www.example.com", "example.com"),
            ("http://example.com", "www.example.com"),
            ("http://localhost:8000", "example.com"),
            ("http://localhost.evil.example", "127.0.0.1:8012"),
            ("null", "null"),
            ("", ""),
            ("://", ""),
            ("http://", ""),
            ("http://evil.example/example.com", "example.com"),
            ("http://example.com@evil.example", "example.com"),
        ] {
            assert!(!allowed(origin, host, &[]), "{origin} {host}");
        }
        assert!(!is_allowed("http://example.com", None, &[]));
    }

    #[test]
    fn a_page_of_a_listed_origin_is_allowed() {
        let listed = ["https://www.example.com", "http://dev.example:3000", "null"];
        for origin in
            ["https://www.example.com", "https://www.example.com:443", "http://DEV.example:3000", "null"]
        {
            assert!(allowed(origin, "rt.example.com", &listed), "{origin}");
        }
        for origin in
            ["http://www.example.com", "https://www.example.com:8443", "http://dev.example", "file://"]
        {
            assert!(!allowed(origin, "rt.example.com", &listed), "{origin}");
        }
        assert!(allowed("http://anywhere.example", "rt.example.com", &["*"]));
    }

    #[test]
    fn invalid_origins_are_refused() {
        for wrong in ["", "example.com", "https://", "https://example.com/path", "https://a b", "**"] {
            assert_eq!(wrong.parse::<AllowedOrigin>(), Err(InvalidOrigin), "{wrong}");
        }
    }
}
