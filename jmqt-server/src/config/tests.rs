use super::keys::KEYS;
use super::*;

const SHIPPED: &str = include_str!("../../../server.conf");
const MANUAL: &str = include_str!("../../../docs/configuration.md");
const PORT: &str = "SOCKET_PORT = 8010\n";

const NO_VARIABLES: [(&str, &str); 0] = [];

fn from_lines(lines: &str) -> Result<Config, ConfigError> {
    Config::from_text(&format!("{PORT}{lines}"), NO_VARIABLES)
}

fn from_variables<const N: usize>(variables: [(&str, &str); N]) -> Result<Config, ConfigError> {
    Config::load_with(None, variables)
}

/// Asserts that the error has exactly one mistake, with this text.
#[track_caller]
fn refused(result: Result<Config, ConfigError>, message: &str) {
    let error = result.unwrap_err().to_string();
    let shown = match error.strip_prefix("configuration text, line ").and_then(|rest| rest.split_once(':')) {
        Some((_, rest)) if !message.contains("line ") => format!("configuration text:{rest}"),
        _ => error,
    };
    assert_eq!(shown, message);
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let error = Config::from_text(
        "# a comment\nSOCKET_PORT = 'x'\n\nTIMEOUT_SECONDS = 1\nSOKET_PORT = 1\n  LOG_MODE = 'LOUD'\n",
        [("JMQT_MAX_INFLIGHT", "0"), ("JMQT_WEBSOKET_PORT", "1")],
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the configuration has 6 mistakes:\n  \
         configuration text, line 2: SOCKET_PORT is \"x\"; expected a port from 0 to 65535 \
         (0: any free one; empty or left out: no such listener)\n  \
         configuration text, line 4: TIMEOUT_SECONDS is 1; expected an integer from 5 to 86400\n  \
         configuration text, line 5: SOKET_PORT: there is no such key; did you mean SOCKET_PORT?\n  \
         configuration text, line 6: LOG_MODE is \"LOUD\"; expected one of TRC, DBG, INF, WRN, ERR, DISABLED\n  \
         environment variable JMQT_WEBSOKET_PORT: there is no such key; did you mean JMQT_WEBSOCKET_PORT?\n  \
         environment variable JMQT_MAX_INFLIGHT is \"0\"; expected an integer from 1 to 1024"
    );
}

#[test]
fn settings_made_in_code_are_checked() {
    let refused = |change: fn(&mut Config), message: &str| {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.check().unwrap_err().to_string(), message);
        assert_eq!(config.check_fields().unwrap_err().to_string(), message);
    };
    assert!(Config::default().check().is_ok());
    refused(
        |config| config.max_packet_bytes = 0,
        "MAX_PACKET_BYTES (`Config::max_packet_bytes`) is 0; expected 64 to 1073741824 bytes",
    );
    refused(
        |config| config.timeout = Duration::ZERO,
        "TIMEOUT (`Config::timeout`) is 0ns; expected a time longer than 0",
    );
    refused(
        |config| config.max_connections_per_address = Some(0),
        "MAX_CONNECTIONS_PER_ADDRESS (`Config::max_connections_per_address`) is Some(0); \
         expected at least 1, or None for no limit",
    );
    refused(
        |config| (config.max_inflight, config.max_connections) = (1025, 0),
        "the configuration has 2 mistakes:\n  \
         MAX_CONNECTIONS (`Config::max_connections`) is 0; expected at least 1\n  \
         MAX_INFLIGHT (`Config::max_inflight`) is 1025; expected at most 1024",
    );
}

#[test]
fn a_setting_that_needs_a_missing_feature_is_refused_by_name() {
    let missing = |lines: &str, built: &[(&str, bool)]| {
        let config = from_lines(lines).unwrap();
        let errors = config.missing_features(built);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = [("sqlite", false), ("mysql", false), ("redis", false), ("tls", false)];
    assert_eq!(
        missing("", &none),
        [
            "SQLITE_PATH needs the cargo feature `sqlite` of jmqt-server, but this program was built without it: add it to \
          `features` of jmqt-server in Cargo.toml and build again, or change the setting"
        ]
    );
    let cluster = "ENABLE_MYSQL = true\nENABLE_REDIS = true\n\
                   ENABLE_SSL = true\nSSL_SOCKET_PORT = 8011\nSSL_CERT_PATH = 'c'\nSSL_KEY_PATH = 'k'";
    let named = missing(cluster, &none);
    for (error, start) in
        named.iter().zip(["ENABLE_MYSQL needs the cargo feature `mysql`", "ENABLE_REDIS", "ENABLE_SSL"])
    {
        assert!(error.starts_with(start), "{error}");
    }
    assert_eq!(named.len(), 3);
    let all = none.map(|(feature, _)| (feature, true));
    assert_eq!(missing(cluster, &all), [""; 0]);
}

#[test]
fn files_and_addresses_in_settings_are_checked_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name);
    let mut config = Config { sqlite_path: in_folder("new/folders/are/made.db"), ..Config::default() };
    assert!(config.check().is_ok());
    config.sqlite_path = folder.path().to_owned();
    config.log.path = Some(in_folder("missing/server.log"));
    config.bind_address = "192.0.2.1".parse().unwrap();
    config.ssl = Some(SslConfig::new(in_folder("cert.pem"), in_folder("key.pem")));
    let error = config.check().unwrap_err().to_string();
    for part in [
        "4 mistakes",
        "SQLITE_PATH: ",
        " is a folder",
        "LOG_PATH: the folder ",
        "BIND_ADDRESS: cannot listen on 192.0.2.1",
        "SSL_CERT_PATH ",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!in_folder("new").exists(), "a check makes nothing");
}

#[test]
fn a_path_from_the_home_folder_is_refused() {
    const EXPECTED: &str = "expected a path without `~`, which only shells expand: write the full path";
    refused(
        from_lines("LOG_PATH = '~/jmqt.log'"),
        &format!("configuration text: LOG_PATH is \"~/jmqt.log\"; {EXPECTED}"),
    );
    refused(
        from_lines("SQLITE_PATH = '~/jmqt.db'"),
        &format!("configuration text: SQLITE_PATH is \"~/jmqt.db\"; {EXPECTED}"),
    );
    assert!(from_lines("LOG_PATH = 'a~/b'").is_ok());
}

#[test]
fn the_shipped_file_contains_the_defaults() {
    let shipped = Config::from_text(SHIPPED, NO_VARIABLES).unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::default()));
}

#[test]
fn every_key_is_in_the_shipped_file_and_in_the_manual() {
    let in_file: Vec<_> = SHIPPED
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .collect();
    assert_eq!(in_file, KEYS);
    let in_manual: Vec<_> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(in_manual, KEYS);
    for key in KEYS {
        assert!(MANUAL.contains(&format!("`JMQT_{key}`")), "{key}");
    }
}

#[test]
fn without_a_file_the_default_ports_are_used() {
    let config = from_variables([]).unwrap();
    assert_eq!((config.socket_port, config.websocket_port), (Some(8010), Some(8012)));
    assert!(config.ssl.is_none());
    assert_eq!(config.timeout, Duration::from_secs(60));
    assert_eq!(config.session_expiry, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config.max_pending_per_client, Some(100_000));
    assert_eq!(config.max_pending_bytes_per_client, Some(64 << 20));
    assert_eq!(config.max_pending_p2p_per_client, Some(1000));
    assert_eq!(config.max_retained_messages, Some(100_000));
    assert_eq!(config.max_retained_bytes, Some(256 << 20));
    assert_eq!(config.max_retained_per_client, Some(10_000));
    assert_eq!(config.log, LogConfig::new(LogMode::Info, None));
}

#[test]
fn a_port_that_the_file_omits_has_no_listener() {
    let config = from_lines("").unwrap();
    assert_eq!((config.socket_port, config.websocket_port), (Some(8010), None));
    assert_eq!(from_lines("WEBSOCKET_PORT = 0").unwrap().websocket_port, Some(0));
    assert_eq!(from_lines("WEBSOCKET_PORT = ''").unwrap().websocket_port, None);
}

#[test]
fn listeners_for_mqtt_exist_only_if_their_keys_have_a_value() {
    let config = from_lines("").unwrap();
    assert_eq!((config.mqtt_port, config.mqtt_websocket_port), (None, None));
    let config = from_lines("MQTT_PORT = 1883\nMQTT_WEBSOCKET_PORT = 8083").unwrap();
    assert_eq!((config.mqtt_port, config.mqtt_websocket_port), (Some(1883), Some(8083)));
    let ssl = "ENABLE_SSL = true\nSSL_CERT_PATH = 'c'\nSSL_KEY_PATH = 'k'\n";
    let config = from_lines(&format!("{ssl}SSL_MQTT_WEBSOCKET_PORT = 8084")).unwrap();
    let ssl = config.ssl.unwrap();
    assert_eq!((ssl.mqtt_port, ssl.mqtt_websocket_port), (None, Some(8084)));
    refused(
        from_lines("MQTT_PORT = 8083\nMQTT_WEBSOCKET_PORT = 8083"),
        "configuration text: MQTT_WEBSOCKET_PORT is 8083; MQTT_PORT has the same port",
    );
}

#[test]
fn an_empty_variable_disables_a_port() {
    let config = from_variables([("JMQT_SOCKET_PORT", "")]).unwrap();
    assert_eq!((config.socket_port, config.websocket_port), (None, Some(8012)));
}

#[test]
fn at_least_one_listener_is_required() {
    let message = "no listener is configured: set SOCKET_PORT, WEBSOCKET_PORT, MQTT_PORT or MQTT_WEBSOCKET_PORT, \
         or ENABLE_SSL = true with one of the same ports that begin with SSL_";
    refused(Config::from_text("", NO_VARIABLES), message);
    refused(Config::from_text("SSL_SOCKET_PORT = 8011", NO_VARIABLES), message);
}

#[test]
fn two_listeners_cannot_share_a_port() {
    refused(
        from_lines("WEBSOCKET_PORT = 8010"),
        "configuration text: WEBSOCKET_PORT is 8010; SOCKET_PORT has the same port",
    );
    assert!(Config::from_text("SOCKET_PORT = 0\nWEBSOCKET_PORT = 0", NO_VARIABLES).is_ok());
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "SOCKET_PORT = 1\nLOG_MODE = 'ERR'\nENABLE_SSL = true\nSQLITE_PATH = 'a.db'";
    let config = Config::from_text(
        text,
        [
            ("JMQT_SOCKET_PORT", "2"),
            ("JMQT_WEBSOCKET_PORT", "3"),
            ("JMQT_LOG_MODE", "DBG"),
            ("JMQT_ENABLE_SSL", "false"),
            ("JMQT_SQLITE_PATH", "b.db"),
            ("SOCKET_PORT", "9"),
            ("jmqt_socket_port", "9"),
        ],
    )
    .unwrap();
    assert_eq!((config.socket_port, config.websocket_port), (Some(2), Some(3)));
    assert_eq!(config.log.mode, LogMode::Debug);
    assert!(config.ssl.is_none());
    assert_eq!(config.sqlite_path, Path::new("b.db"));
}

#[test]
fn the_process_environment_is_read() {
    // Tests set no variables; reading the real environment must not fail.
    assert!(Config::load(None).is_ok());
}

#[test]
fn quotes_of_both_kinds_and_comments_are_understood() {
    let config = from_lines(
        "# a comment\n\
         LOG_PATH = 'C:\\logs\\a.log' # single quotes keep backslashes\n\
         LOG_MODE = \"WRN\"# right behind the value\n\
         SQLITE_PATH=\"a # b.db\"\n\
         \t TIMEOUT_SECONDS   =   7   # seven\r\n",
    )
    .unwrap();
    assert_eq!(config.log.path.as_deref(), Some(Path::new("C:\\logs\\a.log")));
    assert_eq!(config.log.mode, LogMode::Warning);
    assert_eq!(config.sqlite_path, Path::new("a # b.db"));
    assert_eq!(config.timeout, Duration::from_secs(7));
}

#[test]
fn a_byte_order_mark_is_ignored() {
    assert!(Config::from_text(&format!("\u{feff}{PORT}"), NO_VARIABLES).is_ok());
}

#[test]
fn numbers_may_stand_in_quotes() {
    assert_eq!(from_lines("MAX_INFLIGHT = '7'").unwrap().max_inflight, 7);
}

#[test]
fn switches_accept_common_spellings() {
    let ssl = "SSL_SOCKET_PORT = 8011\nSSL_CERT_PATH = 'c'\nSSL_KEY_PATH = 'k'\nENABLE_SSL = ";
    for on in ["true", "1", "'true'", "'True'", "\"1\"", "'on'", "'yes'"] {
        assert!(from_lines(&format!("{ssl}{on}")).unwrap().ssl.is_some(), "{on}");
    }
    for off in ["false", "0", "'false'", "'FALSE'", "\"0\"", "'off'", "'no'"] {
        assert!(from_lines(&format!("{ssl}{off}")).unwrap().ssl.is_none(), "{off}");
    }
    for (bad, shown) in [("2", "2"), ("'maybe'", "\"maybe\""), ("''", "\"\""), ("[]", "a list")] {
        refused(
            from_lines(&format!("{ssl}{bad}")),
            &format!("configuration text: ENABLE_SSL is {shown}; expected true or false"),
        );
    }
}

#[test]
fn ssl_needs_a_certificate_a_key_and_a_port() {
    let ssl = "ENABLE_SSL = true\nSSL_SOCKET_PORT = 8011\n";
    refused(
        from_lines(ssl),
        "the configuration has 2 mistakes:\n  SSL_CERT_PATH has no value, and ENABLE_SSL is true\n  \
         SSL_KEY_PATH has no value, and ENABLE_SSL is true",
    );
    refused(
        from_lines(&format!("{ssl}SSL_CERT_PATH = 'c'\nSSL_KEY_PATH = ''")),
        "SSL_KEY_PATH has no value, and ENABLE_SSL is true",
    );
    refused(
        from_lines("ENABLE_SSL = true\nSSL_CERT_PATH = 'c'\nSSL_KEY_PATH = 'k'"),
        "configuration text: ENABLE_SSL is true; it requires SSL_SOCKET_PORT, SSL_WEBSOCKET_PORT, \
         SSL_MQTT_PORT or SSL_MQTT_WEBSOCKET_PORT",
    );
    let config = from_lines(&format!("{ssl}SSL_CERT_PATH = 'c'\nSSL_KEY_PATH = 'k'")).unwrap();
    let ssl = config.ssl.unwrap();
    assert_eq!((ssl.cert_path.as_path(), ssl.key_path.as_path()), (Path::new("c"), Path::new("k")));
    assert_eq!((ssl.socket_port, ssl.websocket_port), (Some(8011), None));
}

#[test]
fn keys_of_tls_that_would_have_no_effect_are_refused() {
    let requires = "it requires ENABLE_SSL = true";
    for (line, shown) in [
        ("SSL_MQTT_PORT = 8883", "SSL_MQTT_PORT is 8883"),
        ("SSL_MQTT_WEBSOCKET_PORT = 0", "SSL_MQTT_WEBSOCKET_PORT is 0"),
        ("SSL_CLIENT_CERT = 'REQUIRED'", "SSL_CLIENT_CERT is REQUIRED"),
    ] {
        refused(from_lines(line), &format!("configuration text: {shown}; {requires}"));
        refused(
            from_lines(&format!("ENABLE_SSL = false\n{line}")),
            &format!("configuration text: {shown}; {requires}"),
        );
    }
    // The shipped file has these.
    assert!(from_lines("ENABLE_SSL = false\nSSL_SOCKET_PORT = 8011\nSSL_MQTT_PORT = ''").is_ok());
}

#[test]
fn certificates_of_clients_need_their_authorities() {
    let ssl = "ENABLE_SSL = true\nSSL_SOCKET_PORT = 1\nSSL_CERT_PATH = 'c'\nSSL_KEY_PATH = 'k'\n";
    let wanted = |lines: &str| from_lines(&format!("{ssl}{lines}")).unwrap().ssl.unwrap().client_certificates;
    assert_eq!(wanted(""), ClientCertificates::None);
    assert_eq!(wanted("SSL_CLIENT_CA_PATH = 'ca'"), ClientCertificates::None);
    let ca_path = PathBuf::from("ca");
    assert_eq!(
        wanted("SSL_CLIENT_CA_PATH = 'ca'\nSSL_CLIENT_CERT = 'optional'"),
        ClientCertificates::Optional { ca_path: ca_path.clone() }
    );
    assert_eq!(
        wanted("SSL_CLIENT_CA_PATH = 'ca'\nSSL_CLIENT_CERT = 'REQUIRED'"),
        ClientCertificates::Required { ca_path }
    );
    refused(
        from_lines(&format!("{ssl}SSL_CLIENT_CERT = 'REQUIRED'")),
        "SSL_CLIENT_CA_PATH has no value, and SSL_CLIENT_CERT is not NONE",
    );
    refused(
        from_lines(&format!("{ssl}SSL_CLIENT_CERT = 'maybe'")),
        "configuration text: SSL_CLIENT_CERT is \"maybe\"; expected one of NONE, OPTIONAL, REQUIRED",
    );
}

#[test]
fn ssl_without_a_file_uses_the_default_ports() {
    let config =
        from_variables([("JMQT_ENABLE_SSL", "1"), ("JMQT_SSL_CERT_PATH", "c"), ("JMQT_SSL_KEY_PATH", "k")])
            .unwrap();
    let ssl = config.ssl.unwrap();
    assert_eq!((ssl.socket_port, ssl.websocket_port), (Some(8011), Some(8013)));
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    refused(
        from_lines("SOKET_PORT = 1"),
        "configuration text: SOKET_PORT: there is no such key; did you mean SOCKET_PORT?",
    );
    refused(from_lines("COLOUR = 'red'"), "configuration text: COLOUR: there is no such key");
    refused(
        from_lines("timeout_seconds = 7"),
        "configuration text: timeout_seconds: there is no such key; did you mean TIMEOUT_SECONDS?",
    );
    refused(from_lines("[SERVER]\nLOG_MODE = 'DBG'"), "configuration text: SERVER: there is no such key");
    refused(from_lines("\"A\\nB\" = 1"), "configuration text: A\\nB: there is no such key");
}

#[test]
fn a_misspelt_variable_is_refused() {
    refused(
        from_variables([("JMQT_SOKET_PORT", "1")]),
        "environment variable JMQT_SOKET_PORT: there is no such key; did you mean JMQT_SOCKET_PORT?",
    );
}

#[test]
fn variables_of_the_application_are_accepted_and_listed() {
    let config =
        from_variables([("JMQT_TOKEN_SECRET", "s3cret"), ("JMQT_COLOUR", "red"), ("HOME", "/")]).unwrap();
    assert_eq!(config.unknown_variables, ["JMQT_COLOUR", "JMQT_TOKEN_SECRET"]);
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn a_wrong_type_is_refused() {
    for (line, found) in [
        ("TIMEOUT_SECONDS = 'soon'", "\"soon\""),
        ("TIMEOUT_SECONDS = ''", "\"\""),
        ("TIMEOUT_SECONDS = true", "true"),
        ("TIMEOUT_SECONDS = 7.5", "7.5"),
        ("TIMEOUT_SECONDS = [7]", "a list"),
        ("[TIMEOUT_SECONDS]\nA = 1", "a table"),
    ] {
        refused(
            from_lines(line),
            &format!("configuration text: TIMEOUT_SECONDS is {found}; expected an integer from 5 to 86400"),
        );
    }
    refused(from_lines("LOG_PATH = 7"), "configuration text: LOG_PATH is 7; expected text in quotes");
    refused(
        from_lines("SQLITE_PATH = ''"),
        "configuration text: SQLITE_PATH is \"\"; expected the path of a file",
    );
}

#[test]
fn a_value_out_of_range_is_refused() {
    for (key, least, most) in [
        ("TIMEOUT_SECONDS", 5_u64, 86_400_u64),
        ("MAX_PACKET_BYTES", 1024, 1 << 30),
        ("MAX_PRECONN_PACKET_BYTES", 1024, 1 << 30),
        ("MAX_INFLIGHT", 1, 1024),
        ("MQTT_RECEIVE_MAXIMUM", 1, 65_535),
        ("MAX_CONNECTIONS", 1, 10_000_000),
        ("MAX_CONNECTIONS_PER_ADDRESS", 0, 10_000_000),
        ("MAX_CONNECTS_PER_ADDRESS_PER_SECOND", 0, 10_000_000),
        ("MAX_TAKEOVERS_PER_SECOND", 0, 10_000_000),
        ("MAX_PACKETS_PER_SECOND_PER_CLIENT", 0, 10_000_000),
        ("MAX_BYTES_PER_SECOND_PER_CLIENT", 0, 4_294_967_295),
        ("OUTBOUND_QUEUE_BYTES", 1, 1 << 34),
        ("MAX_SUBSCRIPTIONS_PER_CLIENT", 1, 10_000_000),
        ("MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT", 0, 10_000_000),
        ("MAX_TOTAL_OUTBOUND_BYTES", 0, 1 << 40),
        ("MAX_TOTAL_PARTIAL_PACKET_BYTES", 1 << 20, 1 << 40),
        ("MAX_TOTAL_PRECONN_BYTES", 1 << 20, 1 << 40),
        ("SLOW_CONSUMER_SECONDS", 1, 86_400),
        ("VALIDATOR_TIMEOUT_SECONDS", 1, 3600),
        ("SYS_INTERVAL_SECONDS", 0, 86_400),
        ("SESSION_EXPIRY_SECONDS", 0, 315_360_000),
        ("MAX_PENDING_PER_CLIENT", 0, 1_000_000_000_000),
        ("DRAIN_SECONDS", 0, 3600),
        ("MYSQL_PORT", 1, 65_535),
        ("MYSQL_POOL_SIZE", 3, 1000),
        ("REDIS_PORT", 1, 65_535),
        ("REDIS_DB_INDEX", 0, 65_535),
    ] {
        let (below, above) = (i128::from(least) - 1, i128::from(most) + 1);
        for bad in [below, above] {
            refused(
                from_lines(&format!("{key} = {bad}")),
                &format!("configuration text: {key} is {bad}; expected an integer from {least} to {most}"),
            );
        }
    }
    refused(
        from_variables([("JMQT_TIMEOUT_SECONDS", "99999999999999999999")]),
        "environment variable JMQT_TIMEOUT_SECONDS is \"99999999999999999999\"; expected an integer from 5 to 86400",
    );
}

#[test]
fn a_bad_port_is_refused() {
    for (port, shown) in [("65536", "65536"), ("-1", "-1"), ("'http'", "\"http\""), ("true", "true")] {
        refused(
            from_lines(&format!("WEBSOCKET_PORT = {port}")),
            &format!(
                "configuration text: WEBSOCKET_PORT is {shown}; expected a port from 0 to 65535 \
                 (0: any free one; empty or left out: no such listener)"
            ),
        );
    }
}

#[test]
fn the_limits_of_the_ranges_are_accepted() {
    let config = from_lines(
        "TIMEOUT_SECONDS = 5\nMAX_INFLIGHT = 1024\nMAX_PACKET_BYTES = 1024\nOUTBOUND_QUEUE_BYTES = 2048\n\
         DRAIN_SECONDS = 0\nSESSION_EXPIRY_SECONDS = 1\nMAX_PENDING_PER_CLIENT = 0\nWEBSOCKET_PORT = 65535",
    )
    .unwrap();
    assert_eq!(config.timeout, Duration::from_secs(5));
    assert_eq!(config.max_inflight, 1024);
    assert_eq!((config.max_packet_bytes, config.outbound_queue_bytes), (1024, 2048));
    assert_eq!(config.drain, Duration::ZERO);
    assert_eq!(config.session_expiry, Some(Duration::from_secs(1)));
    assert_eq!(config.max_pending_per_client, None);
    assert_eq!(config.websocket_port, Some(65_535));
}

#[test]
fn default_sizes_depend_on_the_largest_packet() {
    let small = from_lines("MAX_PACKET_BYTES = 2048").unwrap();
    assert_eq!((small.max_preconn_packet_bytes, small.outbound_queue_bytes), (2048, 8 << 20));
    let large = from_lines("MAX_PACKET_BYTES = 16777216").unwrap();
    assert_eq!((large.max_preconn_packet_bytes, large.outbound_queue_bytes), (16 << 10, 32 << 20));
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    refused(
        from_lines("OUTBOUND_QUEUE_BYTES = 8388607"),
        "configuration text: OUTBOUND_QUEUE_BYTES is 8388607; \
         it must be at least twice MAX_PACKET_BYTES, which makes 8388608",
    );
    refused(
        from_lines("MAX_PACKET_BYTES = 2048\nMAX_PRECONN_PACKET_BYTES = 2049"),
        "configuration text: MAX_PRECONN_PACKET_BYTES is 2049; it must not exceed MAX_PACKET_BYTES, which is 2048",
    );
}

#[test]
fn only_listed_words_are_accepted() {
    assert_eq!(from_lines("LOG_MODE = 'disabled'").unwrap().log.mode, LogMode::Disabled);
    refused(
        from_lines("LOG_MODE = 'LOUD'"),
        "configuration text: LOG_MODE is \"LOUD\"; expected one of TRC, DBG, INF, WRN, ERR, DISABLED",
    );
    refused(
        from_lines("SQLITE_SYNCHRONOUS = 'OFF'"),
        "configuration text: SQLITE_SYNCHRONOUS is \"OFF\"; expected one of FULL, NORMAL",
    );
    refused(
        from_lines("LOG_MODE = 1"),
        "configuration text: LOG_MODE is 1; expected one of TRC, DBG, INF, WRN, ERR, DISABLED",
    );
}

#[test]
fn the_bind_address_must_be_an_ip_address() {
    assert_eq!(from_lines("BIND_ADDRESS = '::1'").unwrap().bind_address, "::1".parse::<IpAddr>().unwrap());
    refused(
        from_lines("BIND_ADDRESS = 'localhost'"),
        "configuration text: BIND_ADDRESS is \"localhost\"; \
         expected an IP address, such as \"0.0.0.0\", \"127.0.0.1\" or \"::\"",
    );
}

#[test]
fn settings_of_a_cluster_may_be_present_without_being_used() {
    let known = "MYSQL_HOST = 'db'\nMYSQL_PORT = 1\nMYSQL_DB = 'a'\nMYSQL_USER = 'b'\nMYSQL_PSWD = 'c'\n\
                 REDIS_HOST = 'r'\nREDIS_PORT = 2\nREDIS_DB_INDEX = 3\nREDIS_PASSWORD = 'd'\nREDIS_PREFIX = 'e'\n\
                 ENABLE_MYSQL = false\nENABLE_REDIS = 0\nTRUSTED_PROXIES = []";
    let config = from_lines(known).unwrap();
    assert!(config.mysql.is_none() && config.redis.is_none());
    refused(
        from_variables([("JMQT_ENABLE_REDIS", "true")]),
        "environment variable JMQT_ENABLE_REDIS is true; ENABLE_MYSQL must be true too: the nodes of a \
         cluster share a database",
    );
}

#[test]
fn mysql_replaces_sqlite() {
    let mysql = from_lines("ENABLE_MYSQL = true").unwrap().mysql.unwrap();
    assert_eq!(
        (&*mysql.host, mysql.port, &*mysql.database, &*mysql.user),
        ("127.0.0.1", 3306, "jmqt", "jmqt")
    );
    assert_eq!((&*mysql.password, &mysql.tls, mysql.pool_size), ("", &MySqlTls::Preferred, 8));
    let config = from_lines(
        "ENABLE_MYSQL = true\nMYSQL_HOST = ' db.example '\nMYSQL_PORT = 3307\nMYSQL_DB = 'a'\n\
         MYSQL_USER = 'b'\nMYSQL_PSWD = ' c '\nMYSQL_SSL_MODE = 'verify_identity'\n\
         MYSQL_SSL_CA_PATH = '/ca.pem'\nMYSQL_POOL_SIZE = 3",
    );
    let mysql = config.unwrap().mysql.unwrap();
    assert_eq!((&*mysql.host, mysql.port, &*mysql.database, &*mysql.user), ("db.example", 3307, "a", "b"));
    assert_eq!((&*mysql.password, mysql.pool_size), (" c ", 3));
    assert_eq!(mysql.tls, MySqlTls::VerifyIdentity { ca: Some("/ca.pem".into()) });
    assert!(!format!("{mysql:?}").contains(" c "));
    refused(
        from_lines("MYSQL_SSL_MODE = 'SOME'"),
        "configuration text: MYSQL_SSL_MODE is \"SOME\"; expected one of DISABLED, PREFERRED, REQUIRED, \
         VERIFY_CA, VERIFY_IDENTITY",
    );
}

#[test]
fn sentinels_and_redis_clusters_are_configured_by_their_nodes() {
    let with = |lines: &str| from_lines(&format!("ENABLE_MYSQL = 1\nENABLE_REDIS = 1\n{lines}"));
    let mode = |lines: &str| with(lines).unwrap().redis.unwrap().mode;
    let nodes = vec![("a".to_owned(), 1), ("::1".to_owned(), 2)];
    let expected = RedisMode::Sentinel { nodes: nodes.clone(), master: "main".to_owned() };
    let sentinel = "REDIS_MODE = 'sentinel'\nREDIS_NODES = 'a:1, [::1]:2'\nREDIS_MASTER = 'main'";
    assert_eq!(mode(sentinel), expected);
    let cluster = "REDIS_MODE = 'CLUSTER'\nREDIS_NODES = 'a:1,[::1]:2'";
    assert_eq!(mode(cluster), RedisMode::Cluster { nodes });
    refused(
        with("REDIS_MODE = 'CLUSTER'"),
        "REDIS_NODES has no value, and REDIS_MODE is SENTINEL or CLUSTER",
    );
    refused(
        with("REDIS_MODE = 'CLUSTER'\nREDIS_NODES = 'a'"),
        "configuration text: REDIS_NODES is \"a\"; expected a list of host:port, separated by commas",
    );
    refused(
        with("REDIS_MODE = 'CLUSTER'\nREDIS_NODES = 'a:1'\nREDIS_DB_INDEX = 1"),
        "configuration text: REDIS_DB_INDEX is 1; a Redis Cluster has database 0 only",
    );
    refused(
        from_lines("REDIS_PREFIX = 'a b'"),
        "configuration text: REDIS_PREFIX is \"a b\"; expected at most 64 bytes without white space",
    );
}

#[test]
fn trusted_proxies_are_a_list_or_comma_separated_text() {
    let of = |value: &str| {
        let networks = from_lines(&format!("TRUSTED_PROXIES = {value}")).unwrap().trusted_proxies;
        networks.iter().map(Network::to_string).collect::<Vec<_>>()
    };
    let all = ["10.0.0.0/8", "127.0.0.1/32", "::1/128"];
    assert_eq!(of("'10.0.0.0/8, 127.0.0.1, ::1'"), all);
    assert_eq!(of("['10.0.0.0/8', \"127.0.0.1\", ' ::1 ']"), all);
    assert_eq!(of("' 10.1.2.3/8 '"), ["10.0.0.0/8"]);
    for empty in ["''", "' '", "[]"] {
        assert_eq!(of(empty), [""; 0], "{empty}");
    }
    let config = from_variables([("JMQT_TRUSTED_PROXIES", "10.0.0.0/8,::1")]).unwrap();
    assert_eq!(config.trusted_proxies, ["10.0.0.0/8", "::1"].map(|network| network.parse().unwrap()));
}

#[test]
fn an_invalid_trusted_proxy_is_named() {
    const EXPECTED: &str = "expected addresses and networks, such as \"10.0.0.0/8, 127.0.0.1, ::1\"";
    for (value, shown, wrong) in [
        ("'10.0.0.0/8, lb.example'", "\"10.0.0.0/8, lb.example\"", "\"lb.example\""),
        ("'10.0.0.0/33'", "\"10.0.0.0/33\"", "\"10.0.0.0/33\""),
        ("'10.0.0.1,'", "\"10.0.0.1,\"", "\"\""),
        ("['10.0.0.1', '::1/129']", "a list", "\"::1/129\""),
    ] {
        refused(
            from_lines(&format!("TRUSTED_PROXIES = {value}")),
            &format!("configuration text: TRUSTED_PROXIES is {shown}; {EXPECTED}; {wrong} is invalid"),
        );
    }
    for (value, shown) in [("7", "7"), ("true", "true"), ("[7]", "a list")] {
        refused(
            from_lines(&format!("TRUSTED_PROXIES = {value}")),
            &format!("configuration text: TRUSTED_PROXIES is {shown}; {EXPECTED}"),
        );
    }
    refused(
        from_variables([("JMQT_TRUSTED_PROXIES", "everybody")]),
        &format!(
            "environment variable JMQT_TRUSTED_PROXIES is \"everybody\"; {EXPECTED}; \"everybody\" is invalid"
        ),
    );
}

#[test]
fn passwords_are_never_shown() {
    refused(
        from_lines("MYSQL_PSWD = 73254"),
        "configuration text: MYSQL_PSWD is (hidden); expected text in quotes",
    );
    for line in [
        "MYSQL_PSWD = hunter2",
        "MYSQL_PSWD = \"hunter2",
        "MYSQL_PSWD = 'hunter2\n",
        "MYSQL_PSWD = \"\\hunter2\"",
        "MYSQL_PSWD = 'a' hunter2",
        "MYSQL_PSWD = 'hunter2'\nMYSQL_PSWD = 'hunter2'",
        "MYSQL_PSWD = {hunter2",
        "MYSQL_PSWD = [hunter2",
        "MYSQL_PSWD = 1hunter2",
        "MYSQL_PSWD = 99999999999999999999",
        "MYSQL_PSWD 'hunter2'",
        "MYSQL_PSWD = 'hunter2\u{1}'",
        "MYSQL_PSWD = ['hunter2']",
        "MYSQL_PASWD = 'hunter2'",
    ] {
        let error = from_lines(line).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("unter2") && !shown.contains("999999"), "{line}: {shown}");
        }
    }
    let config = from_lines("MYSQL_PSWD = 'hunter2'\nREDIS_PASSWORD = 'hunter2'").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn invalid_toml_is_refused_with_its_line() {
    let unquoted = from_lines("LOG_MODE = INF").unwrap_err().to_string();
    assert!(unquoted.starts_with("configuration text, line 2 (LOG_MODE): "), "{unquoted}");
    assert!(unquoted.ends_with(" (text needs quotes; numbers, true and false do not)"), "{unquoted}");
    let error = from_lines("LOG_MODE = 'INF'\nLOG_MODE = 'INF'").unwrap_err().to_string();
    assert_eq!(error, "configuration text, line 3 (LOG_MODE): duplicate key");
    let origin = Origin::Text { line: 2 };
    assert!(
        matches!(from_lines("what is this"), Err(ConfigError::Syntax { origin: found, key: None, .. }) if found == origin)
    );
}

#[test]
fn a_file_is_named_in_its_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.conf");
    let load = || Config::load_with(Some(&path), NO_VARIABLES);
    let name = path.display();

    let missing = load().unwrap_err();
    assert!(missing.to_string().starts_with(&format!("cannot read {name}: ")), "{missing}");
    std::fs::write(&path, b"SOCKET_PORT = 1 # \xff").unwrap();
    assert!(matches!(load(), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&path, "SOCKET_PORT = 'x'").unwrap();
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .starts_with(&format!("{name}, line 1: SOCKET_PORT is \"x\"; expected a port"))
    );
    std::fs::write(&path, "SOCKET_PORT = ").unwrap();
    assert!(load().unwrap_err().to_string().starts_with(&format!("{name}, line 1 (SOCKET_PORT): ")));
    std::fs::write(&path, "SOCKET_PORT = 1").unwrap();
    assert_eq!(load().unwrap().socket_port, Some(1));
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = OsString::from_vec(vec![0xff]);
    refused(
        Config::load_with(None, [("JMQT_LOG_PATH", bytes.clone())]),
        "environment variable JMQT_LOG_PATH is not UTF-8; expected text",
    );
    assert!(Config::load_with(None, [("HOME", bytes)]).is_ok());
}
