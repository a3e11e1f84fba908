//! A file whose content is read again when the file changes.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

/// How often a file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}{}: {source}", path.display(), named(*key))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The configuration key that names it, if that is known.
        key: Option<&'static str>,
        /// The cause.
        source: io::Error,
    },
    /// Its content has mistakes.
    #[error("{}", listed(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All mistakes, in the order of the file.
        problems: Vec<Problem>,
    },
}

impl FileError {
    /// Adds the configuration key that names the file, for the message.
    #[must_use]
    pub fn of_key(mut self, name: &'static str) -> Self {
        if let Self::Unreadable { key, .. } = &mut self {
            *key = Some(name);
        }
        self
    }
}

fn named(key: Option<&'static str>) -> String {
    key.map_or_else(String::new, |key| format!(" ({key})"))
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The line, from 1; `None` if it is the whole file.
    pub line: Option<usize>,
    /// What is wrong, and what was expected.
    pub text: String,
}

impl Problem {
    pub(crate) fn in_line(line: usize, text: impl Into<String>) -> Self {
        Self { line: Some(line), text: text.into() }
    }

    pub(crate) fn of_file(text: impl Into<String>) -> Self {
        Self { line: None, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

fn listed(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("{}, {problem}", path.display())).collect();
    lines.join("\n")
}

/// How a content is made of the text of the file.
type Parse<T> = dyn Fn(&str) -> Result<T, Vec<Problem>> + Send + Sync;

/// A file and its content. Cheap to clone; all clones see the same content.
pub(crate) struct Watched<T>(Arc<Inner<T>>);

struct Inner<T> {
    file: Option<(PathBuf, Box<Parse<T>>)>,
    content: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
    listeners: Mutex<Vec<Arc<Listener>>>,
}

/// Called after the content has changed.
type Listener = dyn Fn() + Send + Sync;

/// As what the file was found.
#[derive(Debug, Default)]
struct Seen {
    /// As it was when its content was read.
    read: Option<Stamp>,
    /// As it was at the last look.
    last: Option<Stamp>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
    /// Of the content, the name or the permissions: nobody can set it.
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let (inode, changed) = {
            use std::os::unix::fs::MetadataExt as _;
            (metadata.ino(), (metadata.ctime(), metadata.ctime_nsec()))
        };
        #[cfg(not(unix))]
        let (inode, changed) = (0, (0, 0));
        Self { modified: metadata.modified().ok(), bytes: metadata.len(), inode, changed }
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the file, and from then on looks at it every second, in a thread of its own, until the last clone is dropped.
    pub(crate) fn open(
        path: impl Into<PathBuf>,
        parse: impl Fn(&str) -> Result<T, Vec<Problem>> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let path = path.into();
        let watched = Self::read(path.clone(), parse)?;
        let inner = Arc::downgrade(&watched.0);
        let look = move || {
            std::thread::sleep(INTERVAL);
            inner.upgrade().map(|inner| Self(inner).look())
        };
        let thread = std::thread::Builder::new().name("jmqt-files".to_owned());
        let started = thread.spawn(move || while look().is_some() {});
        started.map_err(|source| FileError::Unreadable { path, key: None, source })?;
        Ok(watched)
    }

    /// Reads the file.
    fn read(
        path: PathBuf,
        parse: impl Fn(&str) -> Result<T, Vec<Problem>> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let (stamp, content) = read(&path, &parse)?;
        let seen = Mutex::new(Seen { read: Some(stamp), last: Some(stamp) });
        let content = RwLock::new(Arc::new(content));
        let listeners = Mutex::default();
        Ok(Self(Arc::new(Inner { file: Some((path, Box::new(parse))), content, seen, listeners })))
    }

    /// Content without a file.
    pub(crate) fn fixed(content: T) -> Self {
        let (content, seen) = (RwLock::new(Arc::new(content)), Mutex::default());
        Self(Arc::new(Inner { file: None, content, seen, listeners: Mutex::default() }))
    }

    /// The content.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.content.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls this each time after the file was read again.
    pub(crate) fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
    }

    /// What differs after each change of the file, also if it then has an earlier content again.
    pub(crate) fn version(&self) -> String {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.read.map_or_else(String::new, |stamp| {
            let Stamp { modified: _, bytes, inode, changed: (seconds, nanoseconds) } = stamp;
            format!("{bytes} {inode} {seconds} {nanoseconds}")
        })
    }

    /// Reads the file now, changed or not. After an error the earlier content stays.
    pub(crate) fn reload(&self) -> Result<(), FileError> {
        let Some((path, parse)) = &self.0.file else { return Ok(()) };
        let (stamp, content) = read(path, parse)?;
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { read: Some(stamp), last: Some(stamp) };
        *self.0.content.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(content);
        drop(seen);
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listeners.iter().for_each(|listener| listener());
        Ok(())
    }

    /// Reads the file if it has changed, and not since the last look: then nobody is writing it. A mistake in it is logged once for
    /// each change.
    fn look(&self) {
        let Some((path, _)) = &self.0.file else { return };
        let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        {
            let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let is_settled = std::mem::replace(&mut seen.last, stamp) == stamp;
            if seen.read == stamp || !is_settled {
                return;
            }
            // Also if it cannot be used: that is said once.
            seen.read = stamp;
        }
        match self.reload() {
            Ok(()) => tracing::info!(target: "jmqt::app", "{} was read again", path.display()),
            Err(error) => {
                // One line of the log for each mistake.
                for line in error.to_string().lines() {
                    tracing::error!(target: "jmqt::app", "{line}");
                }
                tracing::error!(target: "jmqt::app", "The content of {} that was read before stays in force", path.display());
            }
        }
    }
}

/// Reads a file.
fn read<T>(path: &Path, parse: &Parse<T>) -> Result<(Stamp, T), FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), key: None, source };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    let text = fs::read_to_string(path).map_err(unreadable)?;
    // Editors of Windows write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let content = parse(text).map_err(|problems| FileError::Invalid { path: path.to_owned(), problems })?;
    Ok((Stamp::of(&metadata), content))
}

/// Warns if everybody on this machine can read a file with secrets.
pub(crate) fn warn_if_public(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;

        if let Ok(metadata) = fs::metadata(path)
            && metadata.permissions().mode() & 0o007 != 0
        {
            let path = path.display();
            tracing::warn!(target: "jmqt::app", "every user of this machine has access to {path}: chmod 600 {path}");
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number in a file.
    fn number(text: &str) -> Result<u32, Vec<Problem>> {
        text.trim().parse().map_err(|_| vec![Problem::in_line(1, "expected a number")])
    }

    /// The content after two looks.
    fn later(watched: &Watched<u32>) -> u32 {
        watched.look();
        watched.look();
        *watched.get()
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let watched = Watched::read(path.clone(), number).unwrap();
        assert_eq!(later(&watched), 1);
        fs::write(&path, "22").unwrap();
        assert_eq!(later(&watched), 22);
        // As editors save: another file takes the name.
        let other = folder.path().join("other");
        fs::write(&other, "33").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(later(&watched), 33);
    }

    #[test]
    fn a_file_is_read_only_when_it_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let watched = Watched::read(path.clone(), number).unwrap();
        let look = |text: &str| {
            fs::write(&path, text).unwrap();
            watched.look();
            *watched.get()
        };
        assert_eq!((look("22"), look("333")), (1, 1), "somebody is writing");
        watched.look();
        assert_eq!(*watched.get(), 333);
    }

    #[test]
    fn the_earlier_content_stays_while_the_file_has_a_mistake_or_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        fs::write(&path, "1").unwrap();
        let watched = Watched::read(path.clone(), number).unwrap();
        fs::write(&path, "one").unwrap();
        assert_eq!(later(&watched), 1);
        let error = watched.reload().unwrap_err();
        assert_eq!(error.to_string(), format!("{}, line 1: expected a number", path.display()));
        fs::remove_file(&path).unwrap();
        assert_eq!(later(&watched), 1);
        assert!(watched.reload().unwrap_err().to_string().starts_with("cannot read "));
        fs::write(&path, "2").unwrap();
        assert_eq!(later(&watched), 2);
    }
}
