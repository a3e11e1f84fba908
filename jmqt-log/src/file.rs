//! The log file, which may be renamed or removed under us.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::LogError;

/// How often it is looked whether the path still leads to the file, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Rises with every [`reopen`].
static REOPENED: AtomicU64 = AtomicU64::new(0);

/// Every log file of this process is opened again before its next line.
pub(super) fn reopen() {
    REOPENED.fetch_add(1, Ordering::Relaxed);
}

/// A file that is appended to. Belongs to the thread that writes the log.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    looked_at: Instant,
    reopened: u64,
    /// Opening it again has failed, which has been said.
    has_failed: bool,
}

impl LogFile {
    pub(super) fn open(path: &Path, program: &str) -> Result<Self, LogError> {
        let path = if path.is_dir() { path.join(format!("{program}.log")) } else { path.to_owned() };
        match append(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                looked_at: Instant::now(),
                reopened: REOPENED.load(Ordering::Relaxed),
                has_failed: false,
            }),
            Err(source) => Err(LogError::Open { path, source }),
        }
    }

    /// Opens the path again if somebody asked for it, or if it leads elsewhere.
    fn follow(&mut self) {
        let reopened = REOPENED.load(Ordering::Relaxed);
        let was_asked_for = std::mem::replace(&mut self.reopened, reopened) != reopened;
        if !was_asked_for {
            if self.looked_at.elapsed() < LOOK_INTERVAL {
                return;
            }
            self.looked_at = Instant::now();
            if self.is_at_its_path() {
                return;
            }
        }
        match append(&self.path) {
            Ok(file) => (self.file, self.has_failed) = (file, false),
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                // The log cannot say it; the console can.
                let _ = writeln!(
                    io::stderr(),
                    "cannot open the log file {}: {error}; lines go on into the old one",
                    self.path.display()
                );
            }
            Err(_) => {}
        }
    }

    #[cfg(unix)]
    fn is_at_its_path(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        match (std::fs::metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        }
    }

    #[cfg(not(unix))]
    fn is_at_its_path(&self) -> bool {
        true
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that is made can be read by its owner and group alone: a log names clients and their addresses.
fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_renamed_file_is_left_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let mut log = LogFile::open(&path, "Test").unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.looked_at -= LOOK_INTERVAL;
        log.write_all(b"two\n").unwrap();
        assert_eq!((text(&old), text(&path)), ("one\n".to_owned(), "two\n".to_owned()));
        // And somebody else's file in its place is taken over.
        std::fs::rename(&path, &old).unwrap();
        std::fs::write(&path, "theirs\n").unwrap();
        log.looked_at -= LOOK_INTERVAL;
        log.write_all(b"three\n").unwrap();
        assert_eq!(text(&path), "theirs\nthree\n");
    }

    #[test]
    fn a_file_is_opened_again_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
        let mut log = LogFile::open(&path, "Test").unwrap();
        std::fs::rename(&path, &old).unwrap();
        reopen();
        log.write_all(b"one\n").unwrap();
        assert_eq!((text(&old), text(&path)), (String::new(), "one\n".to_owned()));
    }

    #[test]
    fn lines_go_on_into_the_old_file_while_there_can_be_no_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("logs"), folder.path().join("old"));
        std::fs::create_dir(&path).unwrap();
        let mut log = LogFile::open(&path, "Test").unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.looked_at -= LOOK_INTERVAL;
        log.write_all(b"one\n").unwrap();
        assert_eq!(text(&old.join("Test.log")), "one\n");
    }

    #[cfg(unix)]
    #[test]
    fn others_cannot_read_a_file_that_is_made() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        drop(LogFile::open(&path, "Test").unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
    }
}
