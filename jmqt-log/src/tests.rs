use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tracing::subscriber::with_default;

use super::*;

/// What a sink has written, and a lock that keeps it from writing.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn block(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.block().clone()).unwrap()
    }

    /// The lines without their time, of which the form is checked.
    fn lines(&self) -> Vec<String> {
        let untimed = |line: &str| {
            let (time, rest) = line.split_at(15);
            let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(form, "00-00 00:00:00 ");
            rest.to_owned()
        };
        self.text().lines().map(untimed).collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged by `events` at this level.
fn logged(mode: LogMode, events: impl FnOnce()) -> Vec<String> {
    let captured = Captured::default();
    let (sink, guard) = Sink::new("test", captured.clone());
    with_default(subscriber("JMQTServer", level(mode).unwrap(), Sinks::new(vec![sink])), events);
    drop(guard);
    captured.lines()
}

#[test]
fn a_line_has_time_program_component_level_and_message() {
    let lines = logged(LogMode::Debug, || {
        tracing::info!(target: "jmqt::socket", "Listening on tcp {}", 8010);
        tracing::warn!(target: "jmqt_server::store::sqlite", "slow");
        tracing::error!(target: "my_app", "failed");
        tracing::debug!("from here");
    });
    assert_eq!(
        lines,
        [
            "[JMQTServer:SOCKET] INF : Listening on tcp 8010",
            "[JMQTServer:SQLITE] WRN : slow",
            "[JMQTServer:MY_APP] ERR : failed",
            "[JMQTServer:TESTS] DBG : from here",
        ]
    );
}

#[test]
fn fields_follow_the_message() {
    let lines = logged(LogMode::Info, || {
        let client = "alice";
        tracing::info!(client, remote = %"10.0.0.1:5", count = 3, ratio = 0.5, ok = true, debug = ?client, "Closed");
        tracing::info!(name = "two words", empty = "", pair = "a=b", backslash = "a\\b", list = ?["x"], "Closed");
        tracing::info!(only = 1);
        tracing::info!(message = "as told", "Panicked");
    });
    assert_eq!(
        lines,
        [
            "[JMQTServer:TESTS] INF : Closed client=alice remote=10.0.0.1:5 count=3 ratio=0.5 ok=true debug=\"alice\"",
            "[JMQTServer:TESTS] INF : Closed name=\"two words\" empty=\"\" pair=\"a=b\" backslash=\"a\\\\b\" list=\"[\\\"x\\\"]\"",
            "[JMQTServer:TESTS] INF :  only=1",
            "[JMQTServer:TESTS] INF : Panicked message=\"as told\"",
        ]
    );
}

#[test]
fn an_error_is_shown_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("no commit")]
    struct Outer(#[source] io::Error);

    let lines = logged(LogMode::Info, || {
        let error = Outer(io::Error::other("disk full"));
        tracing::error!(error = &error as &dyn std::error::Error, "Store");
    });
    assert_eq!(lines, ["[JMQTServer:TESTS] ERR : Store error=\"no commit: disk full\""]);
}

#[test]
fn a_client_cannot_forge_a_line() {
    let lines = logged(LogMode::Info, || {
        let evil = "bob\r\n12-15 10:30:08 [JMQTServer:AUTH] INF : root\u{1b}[2K\0\u{85}\u{2028}\u{202e}";
        tracing::info!(client = evil, remote = %evil, debug = ?evil, "Hello {evil}");
        tracing::info!(client = "\"a\" admin=\"yes\"", other = %"x admin=yes", "Hello");
    });
    let escaped = r"bob\r\n12-15 10:30:08 [JMQTServer:AUTH] INF : root\u{1b}[2K\u{0}\u{85}\u{2028}\u{202e}";
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with(&format!(
            "[JMQTServer:TESTS] INF : Hello {escaped} client=\"{escaped}\" remote=\"{escaped}\""
        )),
        "{}",
        lines[0]
    );
    assert!(lines[0].chars().all(|c| !c.is_control()));
    assert_eq!(
        lines[1],
        r#"[JMQTServer:TESTS] INF : Hello client="\"a\" admin=\"yes\"" other="x admin=yes""#
    );
}

#[test]
fn a_mode_shows_its_level_and_those_above() {
    let all = || {
        tracing::error!("e");
        tracing::warn!("w");
        tracing::info!("i");
        tracing::debug!("d");
        tracing::trace!("t");
    };
    let shown = |mode| logged(mode, all).concat().matches(" : ").count();
    assert_eq!(shown(LogMode::Error), 1);
    assert_eq!(shown(LogMode::Warning), 2);
    assert_eq!(shown(LogMode::Info), 3);
    assert_eq!(shown(LogMode::Debug), 4);
    assert_eq!(shown(LogMode::Trace), 5);
    assert_eq!(level(LogMode::Disabled), None);
}

#[test]
fn libraries_are_logged_from_warnings_on() {
    let all = || {
        tracing::debug!(target: "sqlx::query", "select");
        tracing::info!(target: "tokio_tungstenite", "frame");
        tracing::info!(target: "rustls::conn", "hello");
        tracing::warn!(target: "sqlx::pool", "slow");
        tracing::debug!(target: "jmqt::hub", "ours");
        tracing::debug!(target: "my_app::game", "the application's");
        tracing::debug!(target: "tokio_game", "that too");
    };
    assert_eq!(
        logged(LogMode::Debug, all),
        [
            "[JMQTServer:POOL] WRN : slow",
            "[JMQTServer:HUB] DBG : ours",
            "[JMQTServer:GAME] DBG : the application's",
            "[JMQTServer:TOKIO_GAME] DBG : that too",
        ]
    );
    assert!(logged(LogMode::Error, all).is_empty());
}

#[test]
fn a_line_of_any_length_costs_a_bounded_amount() {
    let lines = logged(LogMode::Info, || tracing::info!("{}", "x".repeat(1 << 20)));
    assert!(lines[0].len() < 9000 && lines[0].ends_with(" bytes left out)"));
}

#[test]
fn a_blocked_output_delays_no_caller_and_lost_lines_are_counted() {
    let captured = Captured::default();
    let (sink, guard) = Sink::with_queue("P", captured.clone(), 10);
    let log_guard = LogGuard { sinks: vec![guard] };
    let subscriber = subscriber("P", LevelFilter::INFO, Sinks::new(vec![sink]));
    with_default(subscriber, || {
        let stuck = captured.block();
        // Lines long enough that the thread's buffer overflows and it must write.
        (0..1000).for_each(|n| tracing::info!("{n} {}", "x".repeat(5000)));
        let lost = log_guard.lost_lines();
        assert!(lost >= 980, "{lost}");
        drop(stuck);
        let start = std::time::Instant::now();
        while captured.lines().is_empty() || !captured.text().contains("lines lost") {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "nothing of the lost lines:\n{}",
                captured.text()
            );
            std::thread::sleep(Duration::from_millis(5));
            tracing::info!("later");
        }
    });
    let lines = captured.lines();
    let told = lines.iter().position(|line| line.contains(" lines lost since the start")).unwrap();
    assert!(lines[told].starts_with("[P:LOG] WRN : "), "{}", lines[told]);
    drop(log_guard);
}

#[test]
fn the_end_of_the_log_writes_what_is_queued() {
    let captured = Captured::default();
    let (sink, guard) = Sink::new("test", captured.clone());
    with_default(subscriber("P", LevelFilter::INFO, Sinks::new(vec![sink])), || {
        (0..1000).for_each(|n| tracing::info!("{n}"));
    });
    drop(guard);
    assert_eq!(captured.lines().len(), 1000);
}

#[test]
fn the_end_of_the_log_does_not_wait_for_ever() {
    let captured = Captured::default();
    let (sink, guard) = Sink::with_queue("P", captured.clone(), 4);
    with_default(subscriber("P", LevelFilter::INFO, Sinks::new(vec![sink])), || {
        let _stuck = captured.block();
        (0..100).for_each(|_| tracing::info!("{}", "x".repeat(5000)));
        let start = std::time::Instant::now();
        drop(guard);
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn every_outlet_gets_every_line() {
    let (one, two) = (Captured::default(), Captured::default());
    let (first, first_guard) = Sink::new("one", one.clone());
    let (second, second_guard) = Sink::new("two", two.clone());
    with_default(subscriber("P", LevelFilter::INFO, Sinks::new(vec![first, second])), || {
        tracing::info!("hello")
    });
    drop((first_guard, second_guard));
    assert_eq!(one.text(), two.text());
    assert_eq!(one.lines(), ["[P:TESTS] INF : hello"]);
}

#[test]
fn a_file_is_appended_to_and_a_directory_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    std::fs::write(&path, "before\n").unwrap();
    LogFile::open(&path, "P").unwrap().write_all(b"after\n").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    LogFile::open(folder.path(), "P").unwrap();
    assert!(folder.path().join("P.log").is_file());
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no/such/a.log");
    let error = init("P", &LogConfig::new(LogMode::Info, Some(path.clone()))).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("cannot open the log file {}: ", path.display())),
        "{error}"
    );
}

/// The only test that sets up the log of the test process itself.
#[test]
fn a_second_log_is_refused_and_a_disabled_one_sets_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let disabled = LogConfig::new(LogMode::Disabled, Some(path.clone()));
    drop(init("P", &disabled).unwrap());
    assert!(!path.exists());

    let log = LogConfig::new(LogMode::Error, Some(path.clone()));
    let guard = init("P", &log).unwrap();
    tracing::error!(target: "jmqt::only_here", "to the file");
    assert!(matches!(init("P", &log), Err(LogError::AlreadySet)));
    assert!(init("P", &disabled).is_ok());
    drop(guard);
    assert!(std::fs::read_to_string(&path).unwrap().contains("[P:ONLY_HERE] ERR : to the file\n"));
}
