//! The program from start to stop: arguments, configuration, exit codes.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::process::Output;

use support::{Server, run};
use tempfile::tempdir;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_and_version_are_answered_without_starting_anything() {
    let folder = tempdir().unwrap();
    let help = run(folder.path(), &[], &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("--config <FILE>"), "{}", stdout(&help));
    let version = run(folder.path(), &[], &["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(stdout(&version).trim(), concat!("sample_server ", env!("CARGO_PKG_VERSION")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn wrong_usage_ends_with_2() {
    let folder = tempdir().unwrap();
    for arguments in [&["--confg", "x"][..], &["--config"], &["server.conf"]] {
        let output = run(folder.path(), &[], arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("--help"), "{}", stderr(&output));
    }
}

#[test]
fn a_file_that_was_named_must_exist() {
    let folder = tempdir().unwrap();
    let output = run(folder.path(), &[], &["--config", "mine.conf"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("sample_server: cannot read mine.conf: "), "{}", stderr(&output));
}

#[test]
fn without_arguments_server_conf_is_read_if_it_is_there() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    server.logged("No server.conf in the working directory: using the defaults");
    drop(server);

    fs::write(folder.path().join("server.conf"), "SOCKET_PORT = 8010\nTIMEOUT_SECONDS = 7\n").unwrap();
    let server = Server::start(folder.path());
    server.logged("Configured by server.conf");
    let mut bob = server.connect();
    let token = bob.authenticate("bob");
    bob.conn("bob", &token);
    bob.expect(r#"{"connAck":{"st":1,"ts":7}}"#);
    drop(server);

    fs::write(folder.path().join("server.conf"), "SOKET_PORT = 8010\n").unwrap();
    let output = run(folder.path(), &[], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("server.conf, line 1: SOKET_PORT: there is no such key"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_secret_that_is_too_short_stops_the_start_and_is_not_shown() {
    let folder = tempdir().unwrap();
    let output = run(folder.path(), &[("JMQT_TOKEN_SECRET", "hunter2")], &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = "sample_server: the token secret in JMQT_TOKEN_SECRET has 7 bytes; it must have 32 or more";
    assert!(stderr(&output).contains(error), "{}", stderr(&output));
    assert!(!stderr(&output).contains("hunter2"));
}

#[test]
fn a_start_that_fails_names_its_cause_and_exits_with_1() {
    let folder = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(folder.path(), &[("JMQT_SOCKET_PORT", &port)], &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = format!("sample_server: cannot listen on 127.0.0.1:{port} (SOCKET_PORT): ");
    assert!(stderr(&output).contains(&error), "{}", stderr(&output));

    let _server = Server::start(folder.path());
    let output = run(folder.path(), &[], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("jmqt.db.lock"), "{}", stderr(&output));
}

#[test]
fn mistakes_in_the_configuration_end_with_2() {
    let folder = tempdir().unwrap();
    let here = |name: &str| folder.path().join(name).display().to_string();
    fs::write(here("file"), "").unwrap();
    let in_a_file = here("file/x");
    let missing_folder = here("missing/x.log");
    for (settings, part) in [
        (&[("JMQT_LOG_PATH", missing_folder.as_str())][..], "cannot open the log file "),
        (&[("JMQT_SQLITE_PATH", &in_a_file)], "file/x"),
        (&[("JMQT_BIND_ADDRESS", "192.0.2.1")], "this machine has no such address: correct BIND_ADDRESS"),
        (
            &[
                ("JMQT_ENABLE_SSL", "1"),
                ("JMQT_SSL_CERT_PATH", &in_a_file),
                ("JMQT_SSL_KEY_PATH", &in_a_file),
                ("JMQT_SSL_SOCKET_PORT", "0"),
            ],
            "SSL_CERT_PATH ",
        ),
    ] {
        let output = run(folder.path(), settings, &["--web-port", "0"]);
        assert!(stderr(&output).contains(part), "{settings:?}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(2), "{settings:?}: {}", stderr(&output));
    }
}

#[test]
fn check_reports_all_mistakes_and_starts_nothing() {
    let folder = tempdir().unwrap();
    let conf = folder.path().join("server.conf");
    fs::write(&conf, "SOCKET_PORT = 8010\n").unwrap();
    let output = run(folder.path(), &[], &["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "server.conf, with the environment: the configuration is usable\n");

    fs::write(&conf, "SOCKET_PORT = 'x'\n\nTIMEOUT_SECONDS = 1\n").unwrap();
    let output = run(folder.path(), &[], &["--check"]);
    assert_eq!(output.status.code(), Some(2));
    // The variable of the test is a port; what the file says of it does not count.
    assert!(stderr(&output).contains("server.conf, line 3: TIMEOUT_SECONDS is 1"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn check_looks_at_the_environment_as_the_start_does() {
    let folder = tempdir().unwrap();
    for (variable, part) in [
        (("JMQT_MQTT_PORT", "99999"), "environment variable JMQT_MQTT_PORT is \"99999\""),
        (("JMQT_MQT_PORT", "1883"), "did you mean JMQT_MQTT_PORT?"),
        (("JMQT_TOKEN_SECRET", "short"), "the token secret in JMQT_TOKEN_SECRET has 5 bytes"),
    ] {
        for words in [&["--check"][..], &["--web-port", "0"]] {
            let output = run(folder.path(), &[variable], words);
            assert!(stderr(&output).contains(part), "{words:?}: {}", stderr(&output));
            assert_eq!(output.status.code(), Some(2), "{words:?}");
        }
    }
    let output = run(folder.path(), &[("JMQT_COLOUR", "red")], &["--check"]);
    assert!(stdout(&output).contains("JMQT_COLOUR has no effect"), "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn sighup_reloads_and_disconnects_nobody() {
    let folder = tempdir().unwrap();
    let conf = folder.path().join("server.conf");
    fs::write(&conf, "LOG_PATH = 'a.log'\nMAX_CONNECTIONS = 1\n").unwrap();
    let mut server = Server::start(folder.path());
    let mut bob = server.enter("bob");
    let log = folder.path().join("a.log");
    fs::rename(&log, folder.path().join("a.log.1")).unwrap();
    fs::write(&conf, "LOG_PATH = 'a.log'\nMAX_CONNECTIONS = 2\n").unwrap();
    server.signal("HUP");
    server.logged("reloaded MAX_CONNECTIONS");
    let alice = server.enter("alice");
    bob.expect_presence(r#"{"online":"alice"}"#);

    fs::write(&conf, "MAX_CONNECTIONS = 'many'\n").unwrap();
    server.signal("HUP");
    let error = server.logged("cannot use the new configuration");
    assert!(error.contains("line 1: MAX_CONNECTIONS"), "{error}");
    bob.expect_nothing();
    drop(alice);
    assert_eq!(server.stop("TERM").code(), Some(0));
    assert!(fs::read_to_string(&log).unwrap().contains("reloading"));
}

#[test]
fn a_variable_that_is_no_key_is_warned_of_but_the_secrets_own_is_not() {
    let folder = tempdir().unwrap();
    let secret = "s".repeat(32);
    let environment = [
        ("JMQT_TOKEN_SECRET", secret.as_str()),
        ("JMQT_COLOUR", "red"),
        // Fewer than the limit of open files of any machine: there would be a warning of that too.
        ("JMQT_MAX_CONNECTIONS", "100"),
    ];
    let server = Server::start_with(folder.path(), &environment);
    let warnings = server.log_lines(" WRN : ");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("JMQT_COLOUR"), "{warnings:?}");
}

#[test]
fn both_signals_exit_with_0_and_announce_all_clients_offline() {
    for signal in ["INT", "TERM"] {
        let folder = tempdir().unwrap();
        let mut server = Server::start(folder.path());
        let mut bob = server.enter("bob");
        assert_eq!(server.stop(signal).code(), Some(0));
        assert_eq!(server.log_lines(r#"reason="the server is stopping""#).len(), 1);
        while bob.receive().is_some() {} // the end comes, perhaps after its own "offline"
    }
}

#[test]
fn trc_shows_packets_and_refusals_without_their_data() {
    let folder = tempdir().unwrap();
    let server = Server::start_with(folder.path(), &[("JMQT_LOG_MODE", "TRC")]);
    let mut bob = server.connect();
    let token = bob.authenticate("bob");
    bob.open_session("bob", &token);
    bob.send(r#"{"sub":{"cn":"$nothing"}}"#);
    assert!(bob.receive().unwrap().starts_with(r#"{"subAck":{"st":"#));
    bob.send(r#"{"pub":{"cn":"news","dt":"hunter2","q":1,"id":"7"}}"#);
    bob.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#);
    bob.send(r#"{"pub":{"cn":"$nothing","dt":"hunter2","id":"8"}}"#);
    assert!(bob.receive().unwrap().starts_with(r#"{"pubAck":{"st":"#));
    server.logged(r#" TRC : received pub cn="news" q=1 rt=0 id="7" dt_bytes=9"#);
    server.logged(r#" TRC : sent pubAck st=1 id="7""#);
    server.logged(" TRC : sent push");
    server.logged(" INF : refused: sub");
    assert_eq!(server.log_lines("hunter2"), [""; 0]);
    assert_eq!(server.log_lines(&token), [""; 0]);
}

#[test]
fn the_soft_limit_of_open_files_is_raised() {
    let folder = tempdir().unwrap();
    let server = Server::start_after(folder.path(), "ulimit -Sn 64", &[]);
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    clients.last_mut().unwrap().authenticate("bob");
    assert_eq!(server.log_lines("cannot accept connections").len(), 0);
}

#[test]
fn a_lack_of_open_files_is_logged_and_connections_continue_afterwards() {
    let folder = tempdir().unwrap();
    let server = Server::start_after(folder.path(), "ulimit -n 64", &[("JMQT_MAX_CONNECTIONS", "100")]);
    server.logged(" WRN : the limit of open files leaves room for about 0 connections");
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    server.logged(" WRN : cannot accept connections");
    clients.drain(..90);
    clients.last_mut().unwrap().authenticate("bob");
    assert_eq!(server.log_lines("cannot accept connections").len(), 1, "one line a minute");
}
