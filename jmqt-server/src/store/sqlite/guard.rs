//! Watches what the database stands on: that its file is still there and nobody else's, and that there is room.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// How often file and disk are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Less room than this, or than a twentieth of the disk if that is less, is left to what must be written: no
/// message is taken any more.
const LEAST_ROOM: u64 = 64 << 20;
const LEAST_SHARE: u64 = 20;

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

    /// Fails if the disk is nearly full, until there is clearly more room again.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.is_full || state.looked_at_disk.is_none_or(|then| now - then >= EVERY) {
            state.looked_at_disk = Some(now);
            if let Some((free, all)) = room(&self.file) {
                state.is_full = is_full(free, all, state.is_full);
            }
        }
        if state.is_full { Err(StoreError::NoRoom { path: self.path.display().to_string() }) } else { Ok(()) }
    }
}

/// Whether so few bytes are free. Once it is, a quarter more has to be free before it is not.
fn is_full(free: u64, all: u64, was_full: bool) -> bool {
    let least = LEAST_ROOM.min(all / LEAST_SHARE);
    free < if was_full { least + least / 4 } else { least }
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
            assert!(!is_full(least, all, false) && is_full(least - 1, all, false));
            assert!(is_full(least, all, true) && !is_full(least + least / 4, all, true));
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
