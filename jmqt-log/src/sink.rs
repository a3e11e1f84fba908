//! Where lines go: a bounded queue, and a thread that writes what is in it.
//!
//! Logging never waits. A line that finds the queue full is lost and counted, and the next one that
//! gets through is preceded by one that says so.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use super::line::prefix;

/// Lines that may wait for one outlet.
const QUEUE_LINES: usize = 4096;
/// How long the end of the log waits for an outlet that does not take what is queued.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// One outlet.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    program: Arc<str>,
    queue: NonBlocking,
    lost: ErrorCounter,
    /// How many of the lost lines have been announced.
    announced: Arc<AtomicUsize>,
}

/// Ends one outlet when it is dropped.
#[derive(Debug)]
pub(super) struct SinkGuard {
    sink: Sink,
    worker: Option<WorkerGuard>,
}

impl Sink {
    /// Starts the thread that writes to `outlet`. `program` is the name in announcements.
    pub(super) fn new(program: &str, outlet: impl Write + Send + 'static) -> (Self, SinkGuard) {
        Self::with_queue(program, outlet, QUEUE_LINES)
    }

    pub(super) fn with_queue(
        program: &str,
        outlet: impl Write + Send + 'static,
        lines: usize,
    ) -> (Self, SinkGuard) {
        // The thread flushes whenever its queue is empty, so the buffer delays nothing.
        let (queue, worker) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(lines)
            .thread_name("log")
            .finish(BufWriter::new(outlet));
        let lost = queue.error_counter();
        let sink = Self { program: program.into(), queue, lost, announced: Arc::default() };
        let guard = SinkGuard { sink: sink.clone(), worker: Some(worker) };
        (sink, guard)
    }

    /// Queues one line, and before it the news of lines that were lost.
    fn write(&self, line: &[u8]) {
        let lost = self.lost.dropped_lines();
        let mut queue = self.queue.clone();
        if lost == self.announced.load(Ordering::Relaxed) {
            // A full queue is counted, not an error.
            let _ = queue.write(line);
            return;
        }
        let mut both = self.announcement(lost).into_bytes();
        both.extend_from_slice(line);
        let _ = queue.write(&both);
        if self.lost.dropped_lines() == lost {
            self.announced.store(lost, Ordering::Relaxed);
        }
    }

    fn announcement(&self, lost: usize) -> String {
        let prefix = prefix(&self.program, "log", Level::WARN);
        format!("{prefix}{lost} lines lost since the start: they came faster than they could be written\n")
    }
}

impl SinkGuard {
    pub(super) fn lost_lines(&self) -> u64 {
        self.sink.lost.dropped_lines() as u64
    }
}

impl Drop for SinkGuard {
    /// The worker's own guard may wait for an outlet that takes nothing, and prints to stdout; so it
    /// is dropped elsewhere, and waited for within a limit.
    fn drop(&mut self) {
        if self.sink.lost.dropped_lines() != self.sink.announced.load(Ordering::Relaxed) {
            self.sink.write(b"");
        }
        let (done, ended) = mpsc::channel();
        let worker = self.worker.take();
        let dropped = std::thread::Builder::new().name("log-end".to_owned()).spawn(move || {
            drop(worker);
            let _ = done.send(());
        });
        if dropped.is_ok() {
            let _ = ended.recv_timeout(LAST_WAIT);
        }
    }
}

/// All outlets: what is written to one is written to each.
#[derive(Debug)]
pub(super) struct Sinks(Vec<Sink>);

impl Sinks {
    pub(super) fn new(sinks: Vec<Sink>) -> Self {
        Self(sinks)
    }
}

impl<'s> MakeWriter<'s> for Sinks {
    type Writer = LineWriter<'s>;

    fn make_writer(&'s self) -> LineWriter<'s> {
        LineWriter(&self.0)
    }
}

/// Takes one whole line at a time, as `tracing_subscriber::fmt` writes them.
pub(super) struct LineWriter<'s>(&'s [Sink]);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for sink in self.0 {
            sink.write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
