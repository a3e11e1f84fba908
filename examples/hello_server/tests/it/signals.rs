//! Signals, exit codes, and error messages for wrong usage.

use crate::support;

use crate::support::{Process, command};

fn run(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = support::run(command(&folder.path().join("jmqt.db"), settings).args(arguments));
    (status.code(), said)
}

#[test]
fn sigterm_and_sigint_end_it_in_order() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(&folder.path().join("jmqt.db"), &[]);
        let mut alice = process.connect("alice");
        process.signal(signal);
        assert_eq!(alice.next(), None);
        assert_eq!(process.exit_code(), Some(0), "{signal}");
    }
}

#[test]
fn wrong_usage_and_a_wrong_configuration_end_with_2() {
    let (code, said) = run(&[], &["--nonsense"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = run(&[("JMQT_TIMEOUT_SECONDS", "4")], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("JMQT_TIMEOUT_SECONDS") && said.contains('5'), "{said}");
    let (code, said) = run(&[], &["--config", "no-such-file.conf"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no-such-file.conf"), "{said}");
    let (code, said) = run(
        &[
            ("JMQT_ENABLE_SSL", "true"),
            ("JMQT_SSL_CERT_PATH", "no-such.pem"),
            ("JMQT_SSL_KEY_PATH", "no-such.pem"),
            ("JMQT_SSL_SOCKET_PORT", "0"),
        ],
        &[],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no-such.pem"), "{said}");
}

#[test]
fn a_second_process_on_the_same_store_exits_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("jmqt.db");
    let _first = Process::start(&store, &[]);
    let (status, said) = support::run(&mut command(&store, &[]));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("in use"), "{said}");
}
