//! Checks that the database file and its write-ahead log still exist and are the same files, and
//! that the disk has room.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::rescue::Loss;
use crate::store::StoreError;

/// How often files and disk are checked without commits.
const EVERY: Duration = Duration::from_secs(1);
/// The disk is also checked after this number of written bytes.
const EVERY_BYTES: u64 = 256 << 10;

/// The reserve for necessary writes: with less free space than this, or than a twentieth of the disk if that is less, no
/// message is stored. Unused space within the database counts while [`LEAST_ON_DISK`] is free on the
/// disk, because every page goes through the write-ahead log first.
const LEAST_ROOM: u64 = 64 << 20;
const LEAST_SHARE: u64 = 20;
/// The part of the reserve, in eighths, that must be free on the disk itself.
const LEAST_ON_DISK: u64 = 3;
/// The part of the reserve to which the write-ahead log may grow before it is folded into the database, which needs the
/// same space again. Without this room, acknowledged messages could not be deleted.
const LOG_SHARE: u64 = 4;
const PAGE_BYTES: u64 = 4096;

/// The database file, held open and locked.
///
/// The lock is an `flock`, which belongs to the file under any name, and is independent of the
/// locks of SQLite. The file must not be closed while SQLite has it open: that would release
/// SQLite's locks.
///
/// The first read of a connection creates the write-ahead log, and SQLite deletes it when the last connection closes.
/// Between these two it stays the same file. If all connections break and are opened again, the server must be restarted
/// too, because it is unknown then who has deleted the log.
#[derive(Debug)]
pub(super) struct Guard {
    path: PathBuf,
    file: File,
    database: Identity,
    log_path: PathBuf,
    /// The write-ahead log, once it was seen.
    log: OnceLock<Identity>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked_at_files: Option<Instant>,
    gone: Option<Gone>,
    looked_at_disk: Option<Instant>,
    written: u64,
    is_full: bool,
}

/// The file that is missing, or was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Database,
    Log,
}

impl Guard {
    /// The size of the database and of its log.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        let files = [&self.path, &self.log_path].into_iter();
        files.filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
    }

    /// Locks the file, which must exist.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        let cannot_open =
            |error: io::Error| StoreError::Open { path: path.display().to_string(), source: error.into() };
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(cannot_open)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { path: path.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(cannot_open(error)),
        }
        let database = identity(&file.metadata().map_err(cannot_open)?);
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut log_path = path.clone().into_os_string();
        log_path.push("-wal");
        let (log_path, log) = (log_path.into(), OnceLock::new());
        Ok(Self { path, file, database, log_path, log, state: Mutex::default() })
    }

    /// Unlocks the database for others.
    pub(super) fn unlock(&self) {
        let _ = self.file.unlock(); // otherwise dropping the store unlocks it
    }

    /// Fails if the database or its log was deleted or replaced. The check may be a second old.
    pub(super) fn check_files(&self) -> Result<(), StoreError> {
        self.look(EVERY).map_or(Ok(()), |path| Err(StoreError::Gone { path: path.display().to_string() }))
    }

    /// The same with a new check, after a commit: the commit may be in deleted files.
    pub(super) fn check_commit(&self) -> Result<(), StoreError> {
        let gone = self.look(Duration::ZERO);
        gone.map_or(Ok(()), |path| Err(StoreError::CommittedToGone { path: path.display().to_string() }))
    }

    /// The missing file, if any, according to a check that is at most this old.
    fn look(&self, at_most: Duration) -> Option<&Path> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.looked_at_files.is_none_or(|then| now - then >= at_most) {
            state.looked_at_files = Some(now);
            state.gone = self.find_gone();
        }
        match state.gone? {
            Gone::Database => Some(&self.path),
            Gone::Log => Some(&self.log_path),
        }
    }

    /// The loss, if a file was missing at the last check.
    pub(super) fn loss(&self) -> Option<Loss> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let database = self.path.clone();
        match state.gone? {
            Gone::Log if !self.log_path.exists() => Some(Loss::Log { database }),
            Gone::Log | Gone::Database => Some(Loss::Files { database }),
        }
    }

    fn find_gone(&self) -> Option<Gone> {
        if !has_name(&self.path, self.database) {
            return Some(Gone::Database);
        }
        match self.log.get() {
            Some(log) => (!has_name(&self.log_path, *log)).then_some(Gone::Log),
            None => {
                if let Ok(log) = std::fs::metadata(&self.log_path) {
                    self.log.get_or_init(|| identity(&log));
                }
                None
            }
        }
    }

    /// The number of pages at which the write-ahead log is folded into the database.
    pub(super) fn log_pages(&self) -> u64 {
        let least = room(&self.file).map_or(LEAST_ROOM, |(_, all)| least_room(all));
        (least / LOG_SHARE / PAGE_BYTES).clamp(16, 4000)
    }

    /// Returns `true` if the disk has plenty of room, according to a recent check: the database need not be asked then.
    /// About
    /// `bytes` bytes are to be written.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.written = state.written.saturating_add(bytes);
        let is_recent = state.looked_at_disk.is_some_and(|then| now - then < EVERY);
        if !state.is_full && is_recent && state.written < EVERY_BYTES {
            return true;
        }
        (state.looked_at_disk, state.written) = (Some(now), 0);
        room(&self.file).is_none_or(|(free, all)| !is_full(free, 0, all, state.is_full))
    }

    /// Fails if disk and database are nearly full, until clearly more room is free. `unused` bytes are free in the
    /// database.
    pub(super) fn check_room(&self, unused: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((free, all)) = room(&self.file) {
            state.is_full = is_full(free, unused, all, state.is_full);
        }
        if state.is_full { Err(StoreError::NoRoom { path: self.path.display().to_string() }) } else { Ok(()) }
    }
}

/// The reserve on a disk of this size.
fn least_room(all: u64) -> u64 {
    LEAST_ROOM.min(all / LEAST_SHARE)
}

/// Returns `true` if too few bytes are free on the disk and unused in the database. After that, a quarter more must be
/// free before it returns `false`.
fn is_full(free: u64, unused: u64, all: u64, was_full: bool) -> bool {
    let least = least_room(all);
    let on_disk = least / 8 * LEAST_ON_DISK;
    free < on_disk || free.saturating_add(unused) < if was_full { least + least / 4 } else { least }
}

/// The device and inode of a file, which do not depend on its name.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(file: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}

/// Returns `true` if the file at `path` is this file, or if this is unknown.
fn has_name(path: &Path, file: Identity) -> bool {
    match std::fs::metadata(path) {
        Ok(named) => identity(&named) == file,
        Err(error) => error.kind() != io::ErrorKind::NotFound, // unknown
    }
}

/// The free bytes of the disk for this user, and its size; `None` if they are unknown.
#[cfg(unix)]
fn room(file: &File) -> Option<(u64, u64)> {
    let disk = rustix::fs::fstatvfs(file).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    (disk.f_blocks > 0).then(|| (bytes(disk.f_bavail), bytes(disk.f_blocks)))
}

#[cfg(not(unix))]
fn room(_: &File) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_counts_as_full_until_clearly_more_space_is_free() {
        let (large, small) = (1 << 40, 10 << 20);
        for (all, least) in [(large, 64 << 20), (small, small / 20)] {
            assert!(!is_full(least, 0, all, false) && is_full(least - 1, 0, all, false));
            assert!(is_full(least, 0, all, true) && !is_full(least + least / 4, 0, all, true));
        }
    }

    #[test]
    fn unused_space_in_the_database_counts_while_the_log_has_room() {
        let (all, least) = (1 << 40, 64 << 20);
        assert!(!is_full(least / 2, least / 2, all, false) && is_full(least / 2, least / 2 - 1, all, false));
        assert!(is_full(least / 2, least / 2, all, true) && !is_full(least / 2, least, all, true));
        for was_full in [false, true] {
            let on_disk = least * 3 / 8;
            assert!(!is_full(on_disk, all, all, was_full) && is_full(on_disk - 1, all, all, was_full));
        }
    }

    #[test]
    fn a_deleted_or_replaced_file_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jmqt.db");
        std::fs::write(&path, "").unwrap();
        let guard = Guard::lock(&path).unwrap();
        assert_eq!(guard.find_gone(), None);
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        assert_eq!(guard.find_gone(), Some(Gone::Database));
        std::fs::write(&path, "").unwrap();
        assert_eq!(guard.find_gone(), Some(Gone::Database));
        assert!(
            matches!(guard.check_commit(), Err(StoreError::CommittedToGone { path }) if path.ends_with(".db"))
        );
        std::fs::rename(folder.path().join("moved"), &path).unwrap();
        assert_eq!(guard.find_gone(), None);
        assert!(guard.check_commit().is_ok() && guard.check_files().is_ok());
    }

    #[test]
    fn a_deleted_or_replaced_log_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let (path, log) = (folder.path().join("jmqt.db"), folder.path().join("jmqt.db-wal"));
        std::fs::write(&path, "").unwrap();
        let guard = Guard::lock(&path).unwrap();
        assert_eq!(guard.find_gone(), None);
        std::fs::write(&log, "").unwrap();
        assert_eq!(guard.find_gone(), None);
        std::fs::rename(&log, folder.path().join("moved")).unwrap();
        assert_eq!(guard.find_gone(), Some(Gone::Log));
        std::fs::write(&log, "").unwrap();
        assert!(
            matches!(guard.check_commit(), Err(StoreError::CommittedToGone { path }) if path.ends_with("-wal"))
        );
        std::fs::rename(folder.path().join("moved"), &log).unwrap();
        assert!(guard.check_commit().is_ok());
    }
}
