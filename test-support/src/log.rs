//! The lines that a program has written to stderr so far.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};

use crate::DEADLINE;

#[derive(Debug, Default)]
pub(crate) struct Log {
    read: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    /// Lines before this one have been waited for, or passed over.
    next: usize,
    /// The program has ended: there will be no more.
    has_ended: bool,
}

impl Log {
    /// Reads until the program ends, so that its log never fills the pipe.
    pub(crate) fn of(stderr: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let reader = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                reader.read.lock().unwrap().lines.push(line);
                reader.grown.notify_all();
            }
            reader.read.lock().unwrap().has_ended = true;
            reader.grown.notify_all();
        });
        log
    }

    /// Waits until `found` finds something.
    #[track_caller]
    fn wait<T>(&self, what: &str, mut found: impl FnMut(&mut Lines) -> Option<T>) -> T {
        let mut result = None;
        let waiting = |read: &mut Lines| {
            result = found(read);
            result.is_none() && !read.has_ended
        };
        let (read, _) = self.grown.wait_timeout_while(self.read.lock().unwrap(), DEADLINE, waiting).unwrap();
        let text = if result.is_none() { read.lines.join("\n") } else { String::new() };
        drop(read); // before a panic, which would poison it
        result.unwrap_or_else(|| panic!("no line with {what:?} in the log:\n{text}"))
    }

    /// The first line with this text.
    #[track_caller]
    pub(crate) fn first(&self, text: &str) -> String {
        self.wait(text, |read| read.lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// The next line with this text, after those that were waited for before.
    #[track_caller]
    pub(crate) fn next(&self, text: &str) -> String {
        self.wait(text, |read| {
            let at = read.next + read.lines[read.next..].iter().position(|line| line.contains(text))?;
            read.next = at + 1;
            Some(read.lines[at].clone())
        })
    }

    /// The end: everything has been read.
    #[track_caller]
    pub(crate) fn end(&self) {
        self.wait("end", |read| read.has_ended.then_some(()));
    }

    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        self.read.lock().unwrap().lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }
}
