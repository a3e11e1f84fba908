//! `client.conf`: `KEY = value` lines, overridden by the environment, to a checked [`Config`].
//!
//! Environment variables are `JMQT_CLIENT_` and the key, because `JMQT_` and a key is the server's.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use jmqt_config::{ConfigError, Keys, Origin, Settings, Value, Variables};
use jmqt_protocol::{AuthToken, ClientId};

use super::{Config, Reconnect, Secret, TlsConfig, WhenFull};
use crate::{Endpoint, Header, InvalidUrl};

/// What every variable that concerns a client begins with.
const PREFIX: &str = "JMQT_CLIENT_";

/// Every key there is, in the order of `client.conf`.
pub(super) const KEYS: [&str; 36] = [
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
    "WEBSOCKET_HEADERS",
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
    "USER_NAME",
    "PASSWORD",
    "MQTT_VERSION",
    "KEEP_ALIVE_SECONDS",
    "DEFAULT_QOS",
    "DEFAULT_RETAIN",
    "DEFAULT_CODEC",
    "topics", // sections
];

/// Keys whose values are never shown.
const SECRETS: [&str; 4] = ["AUTH_DATA", "TOKEN", "PASSWORD", "WEBSOCKET_HEADERS"];

pub(crate) const CLIENT: Keys =
    Keys { known: &KEYS, also: &[], secret: &SECRETS, prefix: PREFIX, variables: Variables::Own };

impl Config {
    /// Reads `path`, or the defaults if there is none, and the environment (`JMQT_CLIENT_` and the key) over it.
    ///
    /// # Errors
    /// [`ConfigError`] names every mistake: the place, the key, what was found and what was expected. Print it and stop.
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
        load(path, environment, check)
    }

    /// [`Config::load_with`] with the text of a file instead of its path.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text<N: Into<OsString>, V: Into<OsString>>(
        text: &str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        read(text, environment, check)
    }
}

/// The settings of a file and of an environment over it.
pub(crate) fn settings<N: Into<OsString>, V: Into<OsString>>(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (N, V)>,
) -> Result<Settings, ConfigError> {
    Settings::load(CLIENT, path, owned(environment))
}

/// What `check` makes of them; all its mistakes together.
pub(crate) fn load<T, N: Into<OsString>, V: Into<OsString>>(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (N, V)>,
    check: impl FnOnce(&Settings) -> T,
) -> Result<T, ConfigError> {
    finished(settings(path, environment)?, check)
}

/// [`load`] with the text of a file.
pub(crate) fn read<T, N: Into<OsString>, V: Into<OsString>>(
    text: &str,
    environment: impl IntoIterator<Item = (N, V)>,
    check: impl FnOnce(&Settings) -> T,
) -> Result<T, ConfigError> {
    let source = (&Origin::Text { line: 0 }, text);
    finished(Settings::read(CLIENT, Some(source), owned(environment))?, check)
}

fn finished<T>(settings: Settings, check: impl FnOnce(&Settings) -> T) -> Result<T, ConfigError> {
    let made = check(&settings);
    settings.finish()?;
    Ok(made)
}

fn owned<N: Into<OsString>, V: Into<OsString>>(
    environment: impl IntoIterator<Item = (N, V)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    environment.into_iter().map(|(name, value)| (name.into(), value.into()))
}

/// Reads what [`Config`] and [`mqtt::Options`](crate::mqtt::Options) have in common; what `to` has is the default.
macro_rules! read_common {
    ($settings:expr, $to:expr) => {{
        use $crate::config::file::{bytes, headers, reconnect, seconds, tls, when_full};
        let settings = $settings;
        $to.tls = tls(settings);
        $to.websocket_headers = headers(settings);
        $to.reconnect = reconnect(settings);
        $to.queue_bytes = bytes(settings, "QUEUE_BYTES", $to.queue_bytes);
        $to.when_full = when_full(settings);
        $to.stream_bytes = bytes(settings, "STREAM_BYTES", $to.stream_bytes);
        $to.max_packet_bytes = bytes(settings, "MAX_PACKET_BYTES", $to.max_packet_bytes);
        $to.connect_timeout = seconds(settings, "CONNECT_TIMEOUT_SECONDS", $to.connect_timeout);
        $to.request_timeout = seconds(settings, "REQUEST_TIMEOUT_SECONDS", $to.request_timeout);
        $to.publish_timeout = seconds(settings, "PUBLISH_TIMEOUT_SECONDS", $to.publish_timeout);
        $to.close_timeout = seconds(settings, "CLOSE_TIMEOUT_SECONDS", $to.close_timeout);
    }};
}

pub(crate) use read_common;

fn check(settings: &Settings) -> Config {
    let mut config = Config { endpoints: endpoints(settings), ..Config::default() };
    read_common!(settings, config);
    config.auth_data = parsed(settings, "AUTH_DATA", Secret::parse, |_| "one JSON value".to_owned());
    let client = parsed(settings, "CLIENT_ID", ClientId::parse, ToString::to_string);
    check_token(settings, client.is_some());
    config.token = client.clone().zip(text(settings, "TOKEN").map(AuthToken::new));
    if let (Some(path), Some(client)) = (settings.path("TOKEN_PATH", ""), client) {
        config = config.token_file(client, path);
    }
    config.window = u32::try_from(settings.integer("WINDOW", config.window.into(), 1..=1024)).unwrap_or(1024);
    check_log(settings, &mut config);
    config
}

pub(crate) fn tls(settings: &Settings) -> TlsConfig {
    TlsConfig {
        ca_path: settings.path("SSL_CA_PATH", ""),
        cert_path: settings.path("SSL_CERT_PATH", ""),
        key_path: settings.path("SSL_KEY_PATH", ""),
        server_name: text(settings, "SSL_SERVER_NAME").map(str::to_owned),
        ..TlsConfig::default()
    }
}

/// A list of headers, or one.
pub(crate) fn headers(settings: &Settings) -> Vec<Header> {
    const KEY: &str = "WEBSOCKET_HEADERS";
    let parsed = |value: &Value| match value {
        Value::Text(text) if text.trim().is_empty() => Some(Vec::new()),
        Value::Text(text) => Some(vec![text.parse().ok()?]),
        Value::List(items) => items.iter().map(|item| item.as_text()?.parse().ok()).collect(),
        _ => None,
    };
    settings.value(KEY, Vec::new(), parsed, || {
        "a list of headers such as [\"Cookie: session=1\"], without those that the client sets itself"
            .to_owned()
    })
}

pub(crate) fn when_full(settings: &Settings) -> WhenFull {
    let policies =
        [("WAIT", WhenFull::Wait), ("DROP_OLDEST", WhenFull::DropOldest), ("ERROR", WhenFull::Error)];
    choice(settings, "WHEN_FULL", WhenFull::default(), &policies)
}

/// Text; `None` if it is absent or empty.
pub(crate) fn text<'s>(settings: &'s Settings, key: &'static str) -> Option<&'s str> {
    Some(settings.text(key, "").trim()).filter(|text| !text.is_empty())
}

/// What `parse` makes of a text; `expected` tells what would be right where it makes nothing.
pub(crate) fn parsed<T, E>(
    settings: &Settings,
    key: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    expected: impl FnOnce(&E) -> String,
) -> Option<T> {
    parse(text(settings, key)?).map_err(|error| settings.note_bad(key, expected(&error))).ok()
}

pub(crate) fn bytes(settings: &Settings, key: &'static str, default: usize) -> usize {
    settings.size(key, default, 1024..=1 << 30)
}

pub(crate) fn seconds(settings: &Settings, key: &'static str, default: Duration) -> Duration {
    settings.seconds(key, default.as_secs(), 1..=86_400)
}

/// One of a few words; the default too where the text is empty.
pub(crate) fn choice<T: Copy>(
    settings: &Settings,
    key: &'static str,
    default: T,
    choices: &[(&'static str, T)],
) -> T {
    if settings.is_empty(key) { default } else { settings.choice(key, default, choices) }
}

/// What `parse` makes of URL. A user name and a password in it are not shown.
pub(crate) fn url<T>(settings: &Settings, parse: impl FnOnce(&str) -> Result<T, InvalidUrl>) -> Option<T> {
    let url = text(settings, "URL")?;
    let note = |error: InvalidUrl| {
        let mut problem = settings.bad_value("URL", error.as_expected());
        if let (ConfigError::BadValue { found, .. }, true) = (&mut problem, url.contains('@')) {
            "(hidden)".clone_into(found);
        }
        settings.note(problem);
    };
    parse(url).map_err(note).ok()
}

/// URL, or the original's host, port and switch.
fn endpoints(settings: &Settings) -> Vec<Endpoint> {
    let tls = settings.switch("ENABLE_SSL", false);
    let usual = crate::Protocol::Socket.with_tls(tls);
    let port = settings.integer("REMOTE_PORT", usual.default_port().into(), 1..=65_535);
    let host = text(settings, "REMOTE_HOST").unwrap_or("localhost");
    if let Some(mut endpoints) = url(settings, Endpoint::list) {
        for endpoint in &mut endpoints {
            // TLS that is asked for is never left out.
            endpoint.protocol = endpoint.protocol.with_tls(tls || endpoint.protocol.is_tls());
        }
        return endpoints;
    }
    let mut endpoint = Endpoint::new(usual, host);
    endpoint.port = u16::try_from(port).unwrap_or(endpoint.port);
    vec![endpoint]
}

/// CLIENT_ID is given together with one of TOKEN and TOKEN_PATH, or all are absent.
fn check_token(settings: &Settings, has_client: bool) {
    let [has_id, has_token, has_path] =
        ["CLIENT_ID", "TOKEN", "TOKEN_PATH"].map(|key| text(settings, key).is_some());
    match (has_id, has_token, has_path) {
        (_, true, true) => settings.note_bad("TOKEN_PATH", "nothing, because there is a TOKEN"),
        (true, false, false) if has_client => {
            settings.note_bad("CLIENT_ID", "TOKEN or TOKEN_PATH to be set too")
        }
        (false, true, false) => settings.note_bad("TOKEN", "CLIENT_ID to be set too"),
        (false, false, true) => settings.note_bad("TOKEN_PATH", "CLIENT_ID to be set too"),
        _ => {}
    }
}

pub(crate) fn reconnect(settings: &Settings) -> Reconnect {
    let first = Duration::from_millis(settings.integer("RECONNECT_FIRST_MS", 500, 1..=3_600_000));
    let most = Duration::from_millis(settings.integer("RECONNECT_MOST_MS", 30_000, 1..=3_600_000));
    let jitter = settings.switch("RECONNECT_JITTER", true);
    if !settings.switch("ENABLE_RECONNECT", true) {
        return Reconnect::Off;
    }
    if most < first {
        settings.note_bad("RECONNECT_MOST_MS", "no less than RECONNECT_FIRST_MS");
    }
    Reconnect::Backoff { first, most, jitter }
}

#[cfg(feature = "logging")]
fn check_log(settings: &Settings, config: &mut Config) {
    use jmqt_log::{LogConfig, LogMode};
    let modes = [
        ("DBG", LogMode::Debug),
        ("INF", LogMode::Info),
        ("WRN", LogMode::Warning),
        ("ERR", LogMode::Error),
        ("DISABLED", LogMode::Disabled),
    ];
    let path = settings.path("LOG_PATH", "");
    config.log = LogConfig::new(choice(settings, "LOG_MODE", LogMode::Info, &modes), path);
}

#[cfg(not(feature = "logging"))]
fn check_log(settings: &Settings, _: &mut Config) {
    // Known all the same, so that one file does for every program.
    text(settings, "LOG_PATH");
    text(settings, "LOG_MODE");
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
        assert_eq!([&in_file[..], &["topics"]].concat(), KEYS);
    }

    #[test]
    fn the_environment_overrides_the_file() {
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
    fn a_mistake_is_named_with_the_expected_value() {
        refused("WINDOW = 0", "configuration text, line 1: WINDOW is 0; expected an integer from 1 to 1024");
        refused("WINDOW = 'x'", "expected an integer");
        refused("WHEN_FULL = 'NEVER'", "expected one of WAIT, DROP_OLDEST, ERROR");
        refused("ENABLE_SSL = 'maybe'", "expected true or false");
        refused(
            "LOG_MODES = 'INF'",
            "configuration text, line 1: LOG_MODES: there is no such key; did you mean LOG_MODE?",
        );
        refused("URL = 'http://x'", "URL is \"http://x\"; expected a URL such as jmqt://host:8010");
        refused("URL = 'http://x'", "`http` is no scheme");
        refused("WINDOW 7", "configuration text, line 1");
        refused("TOKEN = 'x'", "expected CLIENT_ID to be set too");
        refused("TOKEN_PATH = 'x'", "expected CLIENT_ID to be set too");
        refused("CLIENT_ID = 'x'", "expected TOKEN or TOKEN_PATH to be set too");
        refused(
            "CLIENT_ID = 'x'\nTOKEN = 'x'\nTOKEN_PATH = 'x'",
            "expected nothing, because there is a TOKEN",
        );
        let environment = [("JMQT_CLIENT_WINDOWS", "1")];
        let error = Config::from_text("", environment).unwrap_err().to_string();
        assert_eq!(
            error,
            "environment variable JMQT_CLIENT_WINDOWS: there is no such key; did you mean JMQT_CLIENT_WINDOW?"
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
