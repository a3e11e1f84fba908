//! The log: `tracing` events as lines on the console and in a file.
//!
//! `12-15 10:30:08 [JMQTLoadBalancer:MAIN] INF : Listening on 8010`
//!
//! The same form as the server's lines. Logging never waits: lines go through bounded queues to threads
//! of their own, and what does not fit is lost.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::config::LogConfig;
use line::LineFormat;

const PROGRAM: &str = "JMQTLoadBalancer";
/// Lines that may wait for one outlet.
const QUEUE_LINES: usize = 4096;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The file cannot be opened for appending. Check `log_path`.
    #[error("cannot open the log file {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// There is one already: a mistake in this program.
    #[error("a log has been set up before")]
    AlreadySet,
}

/// Keeps the log alive; what is queued is written when it is dropped.
#[must_use = "the log ends when its guard is dropped"]
pub(crate) struct LogGuard {
    _outlets: Vec<WorkerGuard>,
}

/// Sets up the log of this process: stderr, and the file if there is one.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn init(log: &LogConfig) -> Result<LogGuard, LogError> {
    let Some(level) = log.level.map(LevelFilter::from_level) else {
        return Ok(LogGuard { _outlets: Vec::new() });
    };
    let (console, console_guard) = outlet(io::stderr());
    let (mut outlets, mut guards) = (vec![console], vec![console_guard]);
    if let Some(path) = &log.path {
        let (file, guard) = outlet(open(path)?);
        outlets.push(file);
        guards.push(guard);
    }
    let lines = tracing_subscriber::fmt::layer()
        .event_format(LineFormat::new(PROGRAM))
        .with_ansi(false)
        .with_writer(Outlets(outlets));
    // What is underneath logs for its own developers.
    let levels = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("jmqt_lb", level);
    let subscriber = tracing_subscriber::registry().with(levels).with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    Ok(LogGuard { _outlets: guards })
}

fn outlet(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE_LINES)
        .thread_name("log")
        .finish(io::BufWriter::new(to))
}

fn open(path: &Path) -> Result<File, LogError> {
    let path = if path.is_dir() { path.join(format!("{PROGRAM}.log")) } else { path.to_owned() };
    let opened = OpenOptions::new().create(true).append(true).open(&path);
    opened.map_err(|source| LogError::Open { path, source })
}

/// What is written to one is written to each.
struct Outlets(Vec<NonBlocking>);

impl<'o> MakeWriter<'o> for Outlets {
    type Writer = LineWriter<'o>;

    fn make_writer(&'o self) -> LineWriter<'o> {
        LineWriter(&self.0)
    }
}

struct LineWriter<'o>(&'o [NonBlocking]);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for outlet in self.0 {
            // A full queue is no error: the line is lost.
            let _ = outlet.clone().write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
