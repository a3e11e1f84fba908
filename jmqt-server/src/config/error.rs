//! Why a configuration cannot be used, told so that it can be put right.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In a file.
    File {
        /// Which file.
        path: PathBuf,
        /// Where in it, from 1; 0 if that is not known.
        line: usize,
    },
    /// In text that the application gave.
    Text {
        /// Where in it, from 1; 0 if that is not known.
        line: usize,
    },
    /// In an environment variable.
    Environment,
    /// Nowhere: it is the default.
    Default,
}

impl Origin {
    /// The same file or text, at this line.
    pub(super) fn at_line(&self, line: usize) -> Self {
        match self {
            Self::File { path, .. } => Self::File { path: path.clone(), line },
            Self::Text { .. } => Self::Text { line },
            Self::Environment | Self::Default => self.clone(),
        }
    }

    /// `key` as it is called there, and where that is.
    fn locate(&self, key: &str) -> String {
        match self {
            Self::File { .. } | Self::Text { .. } => format!("{self}: {key}"),
            Self::Environment => format!("environment variable JMQT_{key}"),
            Self::Default => format!("{key}, by default,"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}{}", path.display(), at(*line)),
            Self::Text { line } => write!(f, "configuration text{}", at(*line)),
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
    #[error("{origin}{}: {problem}", in_key(key.as_ref()))]
    Syntax {
        /// Which file, and where in it.
        origin: Origin,
        /// The key on that line, if there is one.
        key: Option<String>,
        /// What is wrong there.
        problem: String,
    },
    /// There is no such key.
    #[error("{}: there is no such key{}", origin.locate(key), did_you_mean(origin, *suggestion))]
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
    /// A setting that was made in code is one that no server can work with.
    #[error("{key} (`Config::{field}`) is {found}; expected {expected}", key = field.to_uppercase())]
    BadField {
        /// Which field of [`Config`](super::Config).
        field: &'static str,
        /// The value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A setting asks for what this program was built without.
    #[error(
        "{key} needs the cargo feature `{feature}` of jmqt-server, without which this program was built: add it to \
         `features` of jmqt-server in Cargo.toml and build again, or change the setting"
    )]
    MissingFeature {
        /// Which key.
        key: &'static str,
        /// The feature.
        feature: &'static str,
    },
    /// What a setting names cannot be used: [`Config::check`](super::Config::check) has tried.
    #[error("{key}: {problem}")]
    Unusable {
        /// Which key.
        key: &'static str,
        /// Why not, and what to do.
        problem: String,
    },
    /// More than one mistake, one line each.
    #[error("the configuration has {} mistakes:{}", problems.len(), list(problems))]
    Several {
        /// The mistakes, at least two.
        problems: Vec<ConfigError>,
    },
}

impl ConfigError {
    /// One error for at least one mistake, in the order of the file.
    pub(super) fn all(mut problems: Vec<Self>) -> Self {
        problems.sort_by_key(|problem| problem.line().unwrap_or(usize::MAX));
        match problems.pop() {
            Some(only) if problems.is_empty() => only,
            last => {
                problems.extend(last);
                Self::Several { problems }
            }
        }
    }
}

impl ConfigError {
    fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::BadValue { origin, .. }
            | Self::Contradiction { origin, .. } => match origin {
                Origin::File { line, .. } | Origin::Text { line } => Some(*line),
                Origin::Environment | Origin::Default => None,
            },
            _ => None,
        }
    }
}

fn list(problems: &[ConfigError]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

fn at(line: usize) -> String {
    if line == 0 { String::new() } else { format!(", line {line}") }
}

fn in_key(key: Option<&String>) -> String {
    key.map(|key| format!(" ({key})")).unwrap_or_default()
}

fn did_you_mean(origin: &Origin, suggestion: Option<&str>) -> String {
    let prefix = if matches!(origin, Origin::Environment) { "JMQT_" } else { "" };
    suggestion.map(|key| format!("; did you mean {prefix}{key}?")).unwrap_or_default()
}
