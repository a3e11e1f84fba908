//! `client.conf`: `KEY = value` lines, overridden by the environment, to a checked [`Config`].
//!
//! Environment variables are `JMQT_CLIENT_` and the key, because `JMQT_` and a key is the server's.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jmqt_protocol::{AuthToken, ClientId};
use toml::{Table, Value};

use super::{Config, Reconnect, Secret, WhenFull};
use crate::{Endpoint, InvalidUrl};

/// What every variable that concerns a client begins with.
const PREFIX: &str = "JMQT_CLIENT_";

/// Every key there is, in the order of `client.conf`.
pub(super) const KEYS: [&str; 27] = [
    "URL",
    "REMOTE_HOST",
    "REMOTE_PORT",
    "ENABLE_SSL",
    "SSL_CA_PATH",
    "SSL_CERT_PATH",
    "SSL_KEY_PATH",
    "SSL_SERVER_NAME",
    "AUTH_DATA",
    "CLIENT_ID",
    "TOKEN",
    "TOKEN_PATH",
    "ENABLE_RECONNECT",
    "RECONNECT_FIRST_MS",
    "RECONNECT_MOST_MS",
    "RECONNECT_JITTER",
    "QUEUE_BYTES",
    "WHEN_FULL",
    "WINDOW",
    "STREAM_BYTES",
    "MAX_PACKET_BYTES",
    "CONNECT_TIMEOUT_SECONDS",
    "REQUEST_TIMEOUT_SECONDS",
    "PUBLISH_TIMEOUT_SECONDS",
    "CLOSE_TIMEOUT_SECONDS",
    "LOG_PATH",
    "LOG_MODE",
];

/// Keys whose values are never shown.
const SECRETS: [&str; 2] = ["AUTH_DATA", "TOKEN"];

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
}

impl Origin {
    fn locate(&self, key: &str) -> String {
        match self {
            Self::File(path) => format!("{}: {key}", path.display()),
            Self::Text => format!("configuration text: {key}"),
            Self::Environment => format!("environment variable {PREFIX}{key}"),
        }
    }

    /// What comes before the list of keys.
    fn keys(&self) -> String {
        match self {
            Self::File(_) | Self::Text => "the keys are ".to_owned(),
            Self::Environment => format!("the variables are {PREFIX} and one of "),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Text => f.write_str("configuration text"),
            Self::Environment => f.write_str("environment"),
        }
    }
}

/// Why there is no [`Config`]: shown to the user as it stands, never with a token or auth data.
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
    #[error("{origin}, line {line}: {problem}; expected KEY = value, with text in quotes")]
    Syntax {
        /// Which file.
        origin: Origin,
        /// Where in it, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// There is no such key.
    #[error("{}: there is no such key; {}{}", origin.locate(key), origin.keys(), KEYS.join(", "))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// What stands there.
        key: String,
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
    /// A text that was given for a URL is none.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
}

impl Config {
    /// Reads `path`, or the defaults if there is none, and the environment (`JMQT_CLIENT_` and the key) over it.
    ///
    /// # Errors
    /// [`ConfigError`] says where, which key, what stands there and what was expected. Show it and stop.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// [`Config::load`] with another environment: all variables by their full names, of which those that begin with
    /// `JMQT_CLIENT_` count.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with<N: Into<OsString>, V: Into<OsString>>(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = match path {
            None => Settings::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
                Settings::parse(&text, Origin::File(path.to_owned()))?
            }
        };
        settings.override_by(environment)?;
        settings.check()
    }

    /// [`Config::load_with`] with the text of a file instead of its path.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text<N: Into<OsString>, V: Into<OsString>>(
        text: &str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Settings::parse(text, Origin::Text)?;
        settings.override_by(environment)?;
        settings.check()
    }
}

/// Known keys with unchecked values, and where each is from.
#[derive(Default)]
struct Settings {
    values: Vec<(&'static str, Value, Origin)>,
}

impl Settings {
    fn parse(text: &str, origin: Origin) -> Result<Self, ConfigError> {
        let table: Table = text.parse().map_err(|error| syntax_error(&error, text, &origin))?;
        let mut settings = Self::default();
        for (key, value) in table {
            let known = known(&key).ok_or_else(|| ConfigError::UnknownKey { origin: origin.clone(), key })?;
            settings.values.push((known, value, origin.clone()));
        }
        Ok(settings)
    }

    fn override_by<N: Into<OsString>, V: Into<OsString>>(
        &mut self,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in environment {
            let name = name.into();
            let Some(key) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
            let origin = Origin::Environment;
            let known = known(key)
                .ok_or(ConfigError::UnknownKey { origin: Origin::Environment, key: key.to_owned() })?;
            let value = value.into().into_string().map_err(|_| ConfigError::BadValue {
                origin: Origin::Environment,
                key: known,
                found: "not UTF-8".to_owned(),
                expected: "text".to_owned(),
            })?;
            self.values.retain(|(key, ..)| *key != known);
            self.values.push((known, Value::String(value), origin));
        }
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&(&'static str, Value, Origin)> {
        self.values.iter().find(|(known, ..)| *known == key)
    }

    fn bad(&self, key: &'static str, expected: impl Into<String>) -> ConfigError {
        let (found, origin) = match self.get(key) {
            Some((_, _, origin)) if SECRETS.contains(&key) => ("(hidden)".to_owned(), origin.clone()),
            Some((_, value, origin)) => (shown(value), origin.clone()),
            None => ("absent".to_owned(), Origin::Text),
        };
        ConfigError::BadValue { origin, key, found, expected: expected.into() }
    }

    /// An integer, quoted or not.
    fn integer(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let number = match self.get(key) {
            None => return Ok(default),
            Some((_, Value::Integer(number), _)) => u64::try_from(*number).ok(),
            Some((_, Value::String(text), _)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.bad(key, format!("an integer from {} to {}", range.start(), range.end())))
    }

    fn bytes(&self, key: &'static str, default: usize) -> Result<usize, ConfigError> {
        let bytes = self.integer(key, default as u64, 1024..=1 << 30)?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn seconds(&self, key: &'static str, default: Duration) -> Result<Duration, ConfigError> {
        self.integer(key, default.as_secs(), 1..=86_400).map(Duration::from_secs)
    }

    fn switch(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        let word = match self.get(key) {
            None => return Ok(default),
            Some((_, Value::Boolean(on), _)) => return Ok(*on),
            Some((_, Value::Integer(number), _)) => number.to_string(),
            Some((_, Value::String(text), _)) => text.trim().to_ascii_lowercase(),
            Some(_) => String::new(),
        };
        match word.as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(self.bad(key, "true or false")),
        }
    }

    /// Text; `None` if it is absent or empty.
    fn text(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some((_, Value::String(text), _)) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.bad(key, "text in quotes")),
        }
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text(key)?.map(PathBuf::from))
    }

    fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let Some(word) = self.text(key)? else { return Ok(default) };
        choices
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, choice)| *choice)
            .ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.bad(key, format!("one of {}", names.join(", ")))
            })
    }

    fn check(&self) -> Result<Config, ConfigError> {
        let mut config = Config { endpoints: self.endpoints()?, ..Config::default() };
        config.tls.ca_path = self.path("SSL_CA_PATH")?;
        config.tls.cert_path = self.path("SSL_CERT_PATH")?;
        config.tls.key_path = self.path("SSL_KEY_PATH")?;
        config.tls.server_name = self.text("SSL_SERVER_NAME")?.map(str::to_owned);
        config.auth_data = match self.text("AUTH_DATA")? {
            None => None,
            Some(json) => Some(Secret::parse(json).map_err(|_| self.bad("AUTH_DATA", "one JSON value"))?),
        };
        config.token = self.token()?;
        if let (Some(path), Some(client)) = (self.path("TOKEN_PATH")?, self.client()?) {
            config = config.token_file(client, path);
        }
        config.reconnect = self.reconnect()?;
        config.queue_bytes = self.bytes("QUEUE_BYTES", config.queue_bytes)?;
        let policies =
            [("WAIT", WhenFull::Wait), ("DROP_OLDEST", WhenFull::DropOldest), ("ERROR", WhenFull::Error)];
        config.when_full = self.choice("WHEN_FULL", config.when_full, &policies)?;
        config.window =
            u32::try_from(self.integer("WINDOW", config.window.into(), 1..=1024)?).unwrap_or(1024);
        config.stream_bytes = self.bytes("STREAM_BYTES", config.stream_bytes)?;
        config.max_packet_bytes = self.bytes("MAX_PACKET_BYTES", config.max_packet_bytes)?;
        config.connect_timeout = self.seconds("CONNECT_TIMEOUT_SECONDS", config.connect_timeout)?;
        config.request_timeout = self.seconds("REQUEST_TIMEOUT_SECONDS", config.request_timeout)?;
        config.publish_timeout = self.seconds("PUBLISH_TIMEOUT_SECONDS", config.publish_timeout)?;
        config.close_timeout = self.seconds("CLOSE_TIMEOUT_SECONDS", config.close_timeout)?;
        self.check_log(&mut config)?;
        Ok(config)
    }

    /// URL, or the original's host, port and switch.
    fn endpoints(&self) -> Result<Vec<Endpoint>, ConfigError> {
        let tls = self.switch("ENABLE_SSL", false)?;
        let usual = crate::Protocol::Socket.with_tls(tls);
        let port = self.integer("REMOTE_PORT", usual.default_port().into(), 1..=65_535)?;
        let host = self.text("REMOTE_HOST")?.unwrap_or("localhost");
        if let Some(url) = self.text("URL")? {
            let mut endpoints = Endpoint::list(url).map_err(|error| self.bad("URL", error.to_string()))?;
            for endpoint in &mut endpoints {
                // TLS that is asked for is never left out.
                endpoint.protocol = endpoint.protocol.with_tls(tls || endpoint.protocol.is_tls());
            }
            return Ok(endpoints);
        }
        let mut endpoint = Endpoint::new(usual, host);
        endpoint.port = u16::try_from(port).unwrap_or(endpoint.port);
        Ok(vec![endpoint])
    }

    fn client(&self) -> Result<Option<ClientId>, ConfigError> {
        let parse =
            |client| ClientId::parse(client).map_err(|error| self.bad("CLIENT_ID", error.to_string()));
        self.text("CLIENT_ID")?.map(parse).transpose()
    }

    /// CLIENT_ID stands beside one of TOKEN and TOKEN_PATH, or all are absent.
    fn token(&self) -> Result<Option<(ClientId, AuthToken)>, ConfigError> {
        match (self.client()?, self.text("TOKEN")?, self.text("TOKEN_PATH")?) {
            (_, Some(_), Some(_)) => Err(self.bad("TOKEN_PATH", "nothing, because there is a TOKEN")),
            (Some(client), Some(token), None) => Ok(Some((client, AuthToken::new(token)))),
            (Some(_), None, None) => Err(self.bad("CLIENT_ID", "TOKEN or TOKEN_PATH beside it")),
            (None, Some(_), None) => Err(self.bad("TOKEN", "CLIENT_ID beside it")),
            (None, None, Some(_)) => Err(self.bad("TOKEN_PATH", "CLIENT_ID beside it")),
            (_, None, _) => Ok(None),
        }
    }

    fn reconnect(&self) -> Result<Reconnect, ConfigError> {
        let first = Duration::from_millis(self.integer("RECONNECT_FIRST_MS", 500, 1..=3_600_000)?);
        let most = Duration::from_millis(self.integer("RECONNECT_MOST_MS", 30_000, 1..=3_600_000)?);
        let jitter = self.switch("RECONNECT_JITTER", true)?;
        if !self.switch("ENABLE_RECONNECT", true)? {
            return Ok(Reconnect::Off);
        }
        if most < first {
            return Err(self.bad("RECONNECT_MOST_MS", "no less than RECONNECT_FIRST_MS"));
        }
        Ok(Reconnect::Backoff { first, most, jitter })
    }

    #[cfg(feature = "logging")]
    fn check_log(&self, config: &mut Config) -> Result<(), ConfigError> {
        use jmqt_log::{LogConfig, LogMode};
        let modes = [
            ("DBG", LogMode::Debug),
            ("INF", LogMode::Info),
            ("WRN", LogMode::Warning),
            ("ERR", LogMode::Error),
            ("DISABLED", LogMode::Disabled),
        ];
        let path = self.path("LOG_PATH")?;
        config.log = LogConfig::new(self.choice("LOG_MODE", LogMode::Info, &modes)?, path);
        Ok(())
    }

    #[cfg(not(feature = "logging"))]
    fn check_log(&self, _: &mut Config) -> Result<(), ConfigError> {
        // Known all the same, so that one file does for every program.
        self.text("LOG_PATH")?;
        self.text("LOG_MODE").map(drop)
    }
}

/// A value as it may be shown.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(on) => on.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}

fn known(key: &str) -> Option<&'static str> {
    KEYS.into_iter().find(|known| *known == key)
}

/// The parser's complaint without the line it quotes, which may hold a token.
fn syntax_error(error: &toml::de::Error, text: &str, origin: &Origin) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    ConfigError::Syntax { origin: origin.clone(), line, problem: error.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../client.conf");
    const NOTHING: [(&str, &str); 0] = [];

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let error = Config::from_text(text, NOTHING).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn the_shipped_file_has_every_key_at_its_default() {
        let shipped = Config::from_text(SHIPPED, NOTHING).unwrap();
        assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::default()));
        let in_file: Vec<_> = SHIPPED
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once(" = ")?.0))
            .collect();
        assert_eq!(in_file, KEYS);
    }

    #[test]
    fn the_environment_wins() {
        let environment = [("JMQT_CLIENT_REMOTE_PORT", "9"), ("JMQT_REMOTE_PORT", "10"), ("HOME", "/")];
        let config = Config::from_text("REMOTE_PORT = 8", environment).unwrap();
        assert_eq!(config.endpoints[0].to_string(), "jmqt://localhost:9");
    }

    #[test]
    fn enable_ssl_changes_protocol_and_port() {
        let config = Config::from_text("ENABLE_SSL = true", NOTHING).unwrap();
        assert_eq!(config.endpoints[0].to_string(), "jmqts://localhost:8011");
        let config = Config::from_text("ENABLE_SSL = true\nURL = 'ws://a:1/x'", NOTHING).unwrap();
        assert_eq!(config.endpoints[0].to_string(), "wss://a:1/x");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        refused("WINDOW = 0", "configuration text: WINDOW is 0; expected an integer from 1 to 1024");
        refused("WINDOW = 'x'", "expected an integer");
        refused("WHEN_FULL = 'NEVER'", "expected one of WAIT, DROP_OLDEST, ERROR");
        refused("ENABLE_SSL = 'maybe'", "expected true or false");
        refused("LOG_MODES = 'INF'", "configuration text: LOG_MODES: there is no such key");
        refused("URL = 'http://x'", "`http` is no scheme");
        refused("WINDOW 7", "configuration text, line 1");
        refused("TOKEN = 'x'", "expected CLIENT_ID beside it");
        refused("TOKEN_PATH = 'x'", "expected CLIENT_ID beside it");
        refused("CLIENT_ID = 'x'", "expected TOKEN or TOKEN_PATH beside it");
        refused(
            "CLIENT_ID = 'x'\nTOKEN = 'x'\nTOKEN_PATH = 'x'",
            "expected nothing, because there is a TOKEN",
        );
        let environment = [("JMQT_CLIENT_WINDOWS", "1")];
        let error = Config::from_text("", environment).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "environment variable JMQT_CLIENT_WINDOWS: there is no such key; the variables are JMQT_CLIENT_ and one of "
            ),
            "{error}"
        );
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        for text in ["AUTH_DATA = 'secret{'", "TOKEN = 'secret'", "AUTH_DATA = secret", "TOKEN = 'secret"] {
            let error = Config::from_text(text, NOTHING).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        let config =
            Config::from_text("AUTH_DATA = '\"secret\"'\nCLIENT_ID = 'a'\nTOKEN = 'secret'", NOTHING)
                .unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
