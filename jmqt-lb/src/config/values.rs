//! Single values: how each kind is read, and what the error says was expected.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A kind of value.
pub(super) trait Kind<T> {
    fn parse(&self, text: &str) -> Option<T>;
    /// Follows "expected".
    fn expected(&self) -> String;
}

/// A whole number of something.
pub(super) struct Number<T>(pub(super) &'static str, pub(super) RangeInclusive<T>);

impl<T: std::str::FromStr + PartialOrd + fmt::Display> Kind<T> for Number<T> {
    fn parse(&self, text: &str) -> Option<T> {
        text.parse().ok().filter(|number| self.1.contains(number))
    }

    fn expected(&self) -> String {
        format!("a number of {} from {} to {}", self.0, self.1.start(), self.1.end())
    }
}

/// A time in seconds, with decimals or without.
pub(super) struct Seconds(pub(super) RangeInclusive<f64>);

impl Kind<Duration> for Seconds {
    fn parse(&self, text: &str) -> Option<Duration> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let seconds = text.parse::<f64>().ok().filter(|seconds| is_plain && self.0.contains(seconds))?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn expected(&self) -> String {
        format!("a number of seconds from {} to {}", self.0.start(), self.0.end())
    }
}

/// `[addr:]port`, or empty for none.
pub(super) struct OptionalAddress;

impl Kind<Option<SocketAddr>> for OptionalAddress {
    fn parse(&self, text: &str) -> Option<Option<SocketAddr>> {
        if text.is_empty() { Some(None) } else { address(text).map(Some) }
    }

    fn expected(&self) -> String {
        "[addr:]port, such as 127.0.0.1:8019, or nothing".to_owned()
    }
}

/// A port, or 0 for none.
pub(super) struct OptionalPort;

impl Kind<u16> for OptionalPort {
    fn parse(&self, text: &str) -> Option<u16> {
        text.parse().ok()
    }

    fn expected(&self) -> String {
        "a port, 1 to 65535, or 0 for none".to_owned()
    }
}

/// What follows the host in a URL.
pub(super) struct HttpPath;

impl Kind<String> for HttpPath {
    fn parse(&self, text: &str) -> Option<String> {
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_path.then(|| text.to_owned())
    }

    fn expected(&self) -> String {
        "a path such as /healthz".to_owned()
    }
}

/// `port`, `addr:port` or `[addr]:port`. A port alone is that port on every IPv4 address.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, text.parse().ok()?)));
    }
    text.parse().ok()
}

/// The host of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Address(IpAddr),
    /// Looked up periodically; it may have several addresses.
    Name(String),
}

/// `host:port` as written in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BackendName {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl BackendName {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => Host::Address(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into()),
            None => match host.parse::<Ipv4Addr>() {
                Ok(address) => Host::Address(address.into()),
                Err(_) => Host::Name(is_name(host).then(|| host.to_ascii_lowercase())?),
            },
        };
        Some(Self { host, port })
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::from((*address, self.port)).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Whether it can be the name of a host; digits and dots alone would be a mistyped address. A dot may end it.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253
        && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}
