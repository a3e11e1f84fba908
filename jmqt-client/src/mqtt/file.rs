//! `client.conf` and the environment, to checked [`Options`]: the keys of JMQT clients where they mean something in MQTT, and
//! those under "MQTT".

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use jmqt_config::{Keys, Settings, Variables};
use jmqt_mqtt::{InvalidTopic, Qos, Version};

use super::{Codec, Options, Password, Server, TopicDefaults};
use crate::ConfigError;
use crate::config::file;

/// The keys of a section `[topics."a/b"]`.
const TOPIC: Keys = Keys {
    known: &["QOS", "RETAIN", "CODEC"],
    also: &[],
    secret: &[],
    prefix: "",
    variables: Variables::Own,
};

/// All numbers for a QoS.
const LEVELS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

impl Options {
    /// Reads `path`, or the defaults if there is none, and the environment (`JMQT_CLIENT_` and the key) over it. Auth data and
    /// tokens are for JMQT servers and are passed over.
    ///
    /// # Errors
    /// [`ConfigError`] names every mistake: the place, the key, what was found and what was expected. Print it and stop.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// [`Options::load`] with another environment: all variables by their full names, of which those that begin with
    /// `JMQT_CLIENT_` count.
    ///
    /// # Errors
    /// As [`Options::load`].
    pub fn load_with<N: Into<OsString>, V: Into<OsString>>(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        file::load(path, environment, check)
    }

    /// [`Options::load_with`] with the text of a file instead of its path.
    ///
    /// # Errors
    /// As [`Options::load`].
    pub fn from_text<N: Into<OsString>, V: Into<OsString>>(
        text: &str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        file::read(text, environment, check)
    }

    /// Whether the URL in this file and this environment is that of an MQTT server, so that [`Options::load_with`] reads them;
    /// otherwise [`Config::load_with`](crate::Config::load_with) does.
    ///
    /// # Errors
    /// The file cannot be read, or is not made of `KEY = value` lines.
    pub fn are_meant<N: Into<OsString>, V: Into<OsString>>(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<bool, ConfigError> {
        let settings = file::settings(path, environment)?;
        Ok(Server::is_url(settings.text("URL", "")))
    }
}

fn check(settings: &Settings) -> Options {
    let mut options = Options::default();
    if let Some(servers) = file::url(settings, Server::list) {
        options.servers = servers;
    }
    if settings.switch("ENABLE_SSL", false) {
        for server in &mut options.servers {
            // TLS that is asked for is never left out.
            server.endpoint.protocol = server.endpoint.protocol.with_tls(true);
        }
    }
    file::read_common!(settings, options);
    options.client_id = file::text(settings, "CLIENT_ID").unwrap_or_default().to_owned();
    options.user_name = file::text(settings, "USER_NAME").map(str::to_owned);
    options.password = Some(settings.text("PASSWORD", "")).filter(|it| !it.is_empty()).map(Password::from);
    if options.password.is_some() && options.user_name.is_none() {
        settings.note_bad("PASSWORD", "USER_NAME to be set too");
    }
    let versions = [("5", Version::V5), ("3.1.1", Version::V3_1_1), ("3.1", Version::V3_1)];
    options.version = file::choice(settings, "MQTT_VERSION", options.version, &versions);
    let keep_alive = settings.integer("KEEP_ALIVE_SECONDS", options.keep_alive.as_secs(), 0..=65_535);
    options.keep_alive = Duration::from_secs(keep_alive);
    let window = settings.integer("WINDOW", options.receive_maximum.into(), 1..=1024);
    options.receive_maximum = u16::try_from(window).unwrap_or(1024);
    options.topics = topics(settings);
    options
}

fn topics(settings: &Settings) -> TopicDefaults {
    let mut topics = TopicDefaults::default();
    topics.general.qos = qos(settings, "DEFAULT_QOS").unwrap_or_default();
    topics.general.is_retained = settings.switch("DEFAULT_RETAIN", false);
    topics.general.codec = codec(settings, "DEFAULT_CODEC");
    for (filter, section) in settings.sections("topics", TOPIC) {
        let is_retained = section.get("RETAIN").map(|_| section.switch("RETAIN", false));
        let values = (qos(&section, "QOS"), is_retained, codec(&section, "CODEC"));
        settings.note_all(section);
        if let Err(error) = topics.add(&filter, values) {
            settings
                .note_bad("topics", format!("names of topics, and filters: {}", not_usable(&filter, error)));
        }
    }
    topics
}

fn not_usable(filter: &str, because: InvalidTopic) -> String {
    format!("{filter:?} is not usable: {because}")
}

fn qos(settings: &Settings, key: &'static str) -> Option<Qos> {
    settings.get(key)?;
    LEVELS.get(settings.integer(key, 0, 0..=2) as usize).copied()
}

fn codec(settings: &Settings, key: &'static str) -> Option<Codec> {
    file::parsed(settings, key, str::parse, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../client.conf");
    const NOTHING: [(&str, &str); 0] = [];

    #[track_caller]
    fn refused(text: &str, message: &str) {
        let error = Options::from_text(text, NOTHING).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn the_shipped_file_has_the_defaults() {
        let shipped = Options::from_text(SHIPPED, NOTHING).unwrap();
        let default = Options::default();
        assert_eq!(format!("{shipped:?}"), format!("{default:?}"));
        assert_eq!((shipped.topics, shipped.receive_maximum), (default.topics, default.receive_maximum));
        // The examples in its comments are right.
        let examples = SHIPPED.lines().skip_while(|line| !line.starts_with("# [topics."));
        let examples: String = examples.map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
        let topics = Options::from_text(&examples, NOTHING).unwrap().topics;
        assert_eq!(topics.of("rooms/7/state").codec, Some(Codec::Json));
    }

    #[test]
    fn every_key_of_mqtt_is_read() {
        let text = "URL = 'mqtt+ws://u:p@a:1/x'\nENABLE_SSL = true\nCLIENT_ID = 'lamp'\nUSER_NAME = 'me'\nPASSWORD = 'secret'\n\
            MQTT_VERSION = '3.1.1'\nKEEP_ALIVE_SECONDS = 10\nDEFAULT_QOS = 1\nDEFAULT_RETAIN = true\nDEFAULT_CODEC = 'json'\n\
            WINDOW = 7\nWEBSOCKET_HEADERS = ['Cookie: secret=1, 2', 'X-Y: z']\n[topics.\"a/#\"]\nQOS = 2\nRETAIN = false";
        let options = Options::from_text(text, NOTHING).unwrap();
        assert_eq!(options.servers[0].to_string(), "mqtt+wss://a:1/x");
        assert_eq!((options.client_id.as_str(), options.user_name.as_deref()), ("lamp", Some("me")));
        assert_eq!((options.version, options.keep_alive), (Version::V3_1_1, Duration::from_secs(10)));
        assert_eq!((options.receive_maximum, options.websocket_headers.len()), (7, 2));
        let (a, b) = (options.topics.of("a"), options.topics.of("b"));
        assert_eq!((a.qos, a.is_retained, a.codec), (Qos::ExactlyOnce, false, Some(Codec::Json)));
        assert_eq!((b.qos, b.is_retained), (Qos::AtLeastOnce, true));
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn mistakes_name_the_place_the_key_and_what_is_right() {
        refused("URL = 'jmqt://a'", "line 1: URL is \"jmqt://a\"; expected a URL such as mqtt://host:1883");
        refused("MQTT_VERSION = '4'", "expected one of 5, 3.1.1, 3.1");
        refused("KEEP_ALIVE_SECONDS = 65536", "expected an integer from 0 to 65535");
        refused("DEFAULT_QOS = 3", "expected an integer from 0 to 2");
        refused("DEFAULT_CODEC = 'xml'", "expected one of utf8, json, msgpack, cbor, binary, bool");
        refused(
            "\n[topics.\"a\"]\nCODEC = 'xml'",
            "line 3, [topics.\"a\"]: CODEC is \"xml\"; expected one of",
        );
        refused("[topics.\"a/#/b\"]\nQOS = 1", "\"a/#/b\" is not usable");
        refused("PASSWORD = 'secret'", "PASSWORD is (hidden); expected USER_NAME to be set too");
        let error = Options::from_text("WEBSOCKET_HEADERS = ['secret']", NOTHING).unwrap_err().to_string();
        assert!(
            error.contains("WEBSOCKET_HEADERS is (hidden); expected") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn a_password_in_the_url_is_never_shown() {
        for text in ["URL = 'mqtt://me:secret@a:b'", "URL = 'x://me:secret@a'", "URL = 'mqtt://me:secret@"] {
            for error in [
                Options::from_text(text, NOTHING).unwrap_err(),
                crate::Config::from_text(text, NOTHING).unwrap_err(),
            ] {
                assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn the_url_tells_which_language_is_meant() {
        let are_meant = |url| Options::are_meant(None, [("JMQT_CLIENT_URL", url)]).unwrap();
        assert!(are_meant("mqtts://a") && !are_meant("jmqts://a") && !are_meant(""));
    }
}
