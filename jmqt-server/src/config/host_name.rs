//! A host name, as in `Host` of an HTTP request.

use std::fmt;
use std::str::FromStr;

/// A host name without a port. Capitals do not matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName(String);

/// The text is not a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name without a port, such as jmqt-1.example.com")]
pub struct InvalidHostName;

impl HostName {
    /// The name, in small letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_right = (1..=253).contains(&text.len()) && text.bytes().all(is_name);
        if is_right { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidHostName) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_no_port_and_no_capitals() {
        assert_eq!("JMQT-1.example.com".parse::<HostName>().unwrap().as_str(), "jmqt-1.example.com");
        for wrong in ["", "a b", "host:80", "http://host", "*"] {
            assert_eq!(wrong.parse::<HostName>(), Err(InvalidHostName), "{wrong:?}");
        }
    }
}
