//! The log: `tracing` events as lines on the console and in a file.
//!
//! `12-15 10:30:08 [JMQTServer:SOCKET] INF : Listening on tcp 8010 connections=0`
//!
//! `line` formats a line; `sink` writes it without blocking the program. All events of `tracing` are logged, including
//! those of the application; events of some libraries only from WRN on.

mod file;
mod line;
mod sink;

use std::io;
use std::path::PathBuf;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use file::LogFile;
use line::LineFormat;
pub use line::with_causes;
use sink::{Sink, SinkGuard, Sinks};

/// Prefixes of the targets of libraries that log for their own developers: logged from WRN on.
const LIBRARIES: [&str; 9] = [
    "mio::",
    "redis::",
    "rustls",
    "sqlx",
    "tokio::",
    "tokio_rustls",
    "tokio_tungstenite",
    "tokio_util",
    "tungstenite",
];

/// What is logged, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// A file that lines are appended to, in addition to the console. Default: none.
    pub path: Option<PathBuf>,
    /// The lowest level that is logged. Default [`LogMode::Info`].
    pub mode: LogMode,
}

impl LogConfig {
    /// Logs at this level to the console, and to a file if there is one.
    #[must_use]
    pub const fn new(mode: LogMode, path: Option<PathBuf>) -> Self {
        Self { path, mode }
    }
}

/// The lowest level that is logged (`LOG_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogMode {
    /// `TRC`: `DBG`, and the packets of every client, without their data: type, channel, ids, size.
    Trace,
    /// `DBG`: everything but packets, to investigate the problems of a client.
    Debug,
    /// `INF`: the normal events of the program.
    Info,
    /// `WRN`: events that an operator should investigate.
    Warning,
    /// `ERR`: events that an operator must act on.
    Error,
    /// `DISABLED`: nothing.
    Disabled,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file cannot be opened for appending. Check LOG_PATH.
    #[error("cannot open the log file {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The program already has a `tracing` subscriber. Use either that one or [`init`].
    #[error("the process already has a tracing subscriber; use either that one or this log")]
    AlreadySet,
}

/// Keeps the log alive. When it is dropped, queued lines are written, which takes at most two seconds for the console and
/// for the file; later lines are lost. Bind it in `main`, to a name other than `_`.
#[derive(Debug)]
#[must_use = "the log ends when its guard is dropped"]
pub struct LogGuard {
    sinks: Vec<SinkGuard>,
}

impl LogGuard {
    /// The number of lines that were lost because the console or the file did not keep up.
    #[must_use]
    pub fn lost_lines(&self) -> u64 {
        self.sinks.iter().map(SinkGuard::lost_lines).sum()
    }
}

/// Sets up the log of this process. `program` is the name in every line, such as `JMQTServer`.
///
/// Lines go to stderr, because stdout is the application's, and are appended to LOG_PATH if there
/// is one (if that is a directory, to `<program>.log` in it). Only the owner and the group may read a file that is
/// made. When it is renamed or removed, as logrotate does, another is made within a second of the next line. With [`LogMode::Disabled`] nothing is
/// set up and no file is opened, and the application may set a subscriber of its own.
///
/// # Errors
/// [`LogError::Open`] if the file cannot be opened; [`LogError::AlreadySet`] if the process has a
/// global `tracing` subscriber already.
pub fn init(program: &str, log: &LogConfig) -> Result<LogGuard, LogError> {
    let Some(level) = level(log.mode) else {
        return Ok(LogGuard { sinks: Vec::new() });
    };
    let (console, console_guard) = Sink::new(program, io::stderr());
    let (mut sinks, mut guards) = (vec![console], vec![console_guard]);
    if let Some(path) = &log.path {
        let (file, guard) = Sink::new(program, LogFile::open(path, program)?);
        sinks.push(file);
        guards.push(guard);
    }
    tracing::subscriber::set_global_default(subscriber(program, level, Sinks::new(sinks)))
        .map_err(|_| LogError::AlreadySet)?;
    Ok(LogGuard { sinks: guards })
}

/// Opens the log file of this process again before the next line, if there is one: for SIGHUP, which programs that
/// rotate logs send. Should that fail, lines go on into the old file.
pub fn reopen() {
    file::reopen();
}

fn level(mode: LogMode) -> Option<LevelFilter> {
    match mode {
        LogMode::Trace => Some(LevelFilter::TRACE),
        LogMode::Debug => Some(LevelFilter::DEBUG),
        LogMode::Info => Some(LevelFilter::INFO),
        LogMode::Warning => Some(LevelFilter::WARN),
        LogMode::Error => Some(LevelFilter::ERROR),
        LogMode::Disabled => None,
    }
}

/// Everything but the console and the file, which tests replace.
fn subscriber<W>(program: &str, level: LevelFilter, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let libraries = LIBRARIES.map(|library| (library, level.min(LevelFilter::WARN)));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(LineFormat::new(program))
        .with_ansi(false)
        .with_writer(writer);
    tracing_subscriber::registry()
        // Only our own code traces packets without payloads; other libraries log from DBG on.
        .with(
            Targets::new()
                .with_default(level.min(LevelFilter::DEBUG))
                .with_target("jmqt", level)
                .with_targets(libraries),
        )
        .with(lines)
}

#[cfg(test)]
mod tests;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
