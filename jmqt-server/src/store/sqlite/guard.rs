//! Watches what the database stands on: that its file is still there and nobody else's, and that there is room.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// How often file and disk are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// The disk also after so many bytes were written.
const EVERY_BYTES: u64 = 256 << 10;

/// Less room than this, or than a twentieth of the disk if that is less, is left to what must be written: no
/// message is taken any more. What is unused within the database counts, as long as [`LEAST_ON_DISK`] is free on the
/// disk: every page goes through the write-ahead log first.
const LEAST_ROOM: u64 = 64 << 20;
const LEAST_SHARE: u64 = 20;
/// This part of it, in eighths, has to be free on the disk in any case.
const LEAST_ON_DISK: u64 = 3;
/// This part of it is what the write-ahead log may grow to before it is folded into the database, which takes as much
/// once more. Otherwise what was acknowledged could not even be deleted.
const LOG_SHARE: u64 = 4;
const PAGE_BYTES: u64 = 4096;

/// The database file, held open and locked.
///
/// The lock is that of `flock`, which belongs to the file whatever it is called, and is independent of the
/// locks that SQLite sets. The file must not be closed while SQLite has it open: that would release
/// SQLite's locks.
#[derive(Debug)]
pub(super) struct Guard {
    path: PathBuf,
    file: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked_at_file: Option<Instant>,
    is_gone: bool,
    looked_at_disk: Option<Instant>,
    written: u64,
    is_full: bool,
}

impl Guard {
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
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, file, state: Mutex::default() })
    }

    /// Lets others open the database.
    pub(super) fn unlock(&self) {
        let _ = self.file.unlock(); // or else it is unlocked when the store is dropped
    }

    /// Fails if the file was deleted, or another one has its name, as of a second ago.
    pub(super) fn check_file(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.looked_at_file.is_none_or(|then| now - then >= EVERY) {
            state.looked_at_file = Some(now);
            state.is_gone = !self.is_in_place();
        }
        if state.is_gone { Err(StoreError::Gone { path: self.path.display().to_string() }) } else { Ok(()) }
    }

    fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => is_same(&open, &named),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound, // it is not known
            (Err(_), _) => true,
        }
    }

    /// At how many pages the write-ahead log is folded into the database.
    pub(super) fn log_pages(&self) -> u64 {
        let least = room(&self.file).map_or(LEAST_ROOM, |(_, all)| least_room(all));
        (least / LOG_SHARE / PAGE_BYTES).clamp(16, 4000)
    }

    /// Whether there is plenty of room on the disk, as of a moment ago: then nobody need ask the database. About so many
    /// `bytes` are to be written.
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

    /// Fails if disk and database are nearly full, until there is clearly more room again. `unused` bytes are free in the
    /// database.
    pub(super) fn check_room(&self, unused: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((free, all)) = room(&self.file) {
            state.is_full = is_full(free, unused, all, state.is_full);
        }
        if state.is_full { Err(StoreError::NoRoom { path: self.path.display().to_string() }) } else { Ok(()) }
    }
}

/// What has to be free on a disk of so many bytes.
fn least_room(all: u64) -> u64 {
    LEAST_ROOM.min(all / LEAST_SHARE)
}

/// Whether so few bytes are free on a disk, and unused in the database. Once it is, a quarter more is needed before it is not.
fn is_full(free: u64, unused: u64, all: u64, was_full: bool) -> bool {
    let least = least_room(all);
    let on_disk = least / 8 * LEAST_ON_DISK;
    free < on_disk || free.saturating_add(unused) < if was_full { least + least / 4 } else { least }
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino()) && one.nlink() > 0
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    true
}

/// How many bytes of the disk are free for this user, and how many there are; `None` if it does not say.
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
    fn a_disk_is_full_until_there_is_clearly_more_room() {
        let (large, small) = (1 << 40, 10 << 20);
        for (all, least) in [(large, 64 << 20), (small, small / 20)] {
            assert!(!is_full(least, 0, all, false) && is_full(least - 1, 0, all, false));
            assert!(is_full(least, 0, all, true) && !is_full(least + least / 4, 0, all, true));
        }
    }

    #[test]
    fn what_is_unused_in_the_database_is_room_while_the_log_has_some() {
        let (all, least) = (1 << 40, 64 << 20);
        assert!(!is_full(least / 2, least / 2, all, false) && is_full(least / 2, least / 2 - 1, all, false));
        assert!(is_full(least / 2, least / 2, all, true) && !is_full(least / 2, least, all, true));
        for was_full in [false, true] {
            let on_disk = least * 3 / 8;
            assert!(!is_full(on_disk, all, all, was_full) && is_full(on_disk - 1, all, all, was_full));
        }
    }

    #[test]
    fn a_file_that_was_deleted_or_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jmqt.db");
        std::fs::write(&path, "").unwrap();
        let guard = Guard::lock(&path).unwrap();
        assert!(guard.is_in_place());
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        assert!(!guard.is_in_place());
        std::fs::write(&path, "").unwrap();
        assert!(!guard.is_in_place());
        std::fs::rename(folder.path().join("moved"), &path).unwrap();
        assert!(guard.is_in_place() && guard.check_file().is_ok());
    }
}
