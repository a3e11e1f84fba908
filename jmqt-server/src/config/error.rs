//! Why a configuration cannot be used, told so that it can be put right.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// In text that the application gave.
    Text,
    /// In an environment variable.
    Environment,
    /// Nowhere: it is the default.
    Default,
}

impl Origin {
    /// `key` as it is called there, and where that is.
    fn locate(&self, key: &str) -> String {
        match self {
            Self::File(path) => format!("{}: {key}", path.display()),
            Self::Text => format!("configuration text: {key}"),
            Self::Environment => format!("environment variable JMQT_{key}"),
            Self::Default => format!("{key}, by default,"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text => f.write_str("configuration text"),
            Self::Environment => f.write_str("environment"),
            Self::Default => f.write_str("defaults"),
        }
    }
}

/// Why there is no [`Config`](super::Config): shown to the operator as it stands, and never with
/// the value of a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not made of `KEY = value` lines.
    #[error("{origin}, line {line}{}: {problem}", in_key(key.as_ref()))]
    Syntax {
        /// Which file.
        origin: Origin,
        /// Where in it, from 1; 0 if that is not known.
        line: usize,
        /// The key on that line, if there is one.
        key: Option<String>,
        /// What is wrong there.
        problem: String,
    },
    /// There is no such key.
    #[error("{}: there is no such key{}", origin.locate(key), did_you_mean(*suggestion))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// What stands there, without `JMQT_`.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// The value has the wrong type, or is out of range.
    #[error("{} is {found}; expected {expected}", origin.locate(key))]
    BadValue {
        /// Where it stands.
        origin: Origin,
        /// Which key.
        key: &'static str,
        /// The value, or `(hidden)`.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The value is fine, but not together with another one.
    #[error("{} is {found}; {problem}", origin.locate(key))]
    Contradiction {
        /// Where it stands.
        origin: Origin,
        /// Which key.
        key: &'static str,
        /// The value.
        found: String,
        /// What it contradicts.
        problem: String,
    },
    /// A key that another setting asks for has no value.
    #[error("{key} has no value, and {because}")]
    Missing {
        /// Which key.
        key: &'static str,
        /// What asks for it.
        because: &'static str,
    },
    /// No port is given, so nobody could connect.
    #[error(
        "there is nothing to listen on: give SOCKET_PORT or WEBSOCKET_PORT, \
         or ENABLE_SSL = true with SSL_SOCKET_PORT or SSL_WEBSOCKET_PORT"
    )]
    NoListener,
}

fn in_key(key: Option<&String>) -> String {
    key.map(|key| format!(" ({key})")).unwrap_or_default()
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}
