//! What integration tests share: [`Process`] and [`Program`], which end with their test, [`Database`], [`Client`], which
//! sends exactly what it is told to, and [`Fuzzing`].
//!
//! Waits are for packets, log lines and the end of a process. Each has a [`DEADLINE`], after which the test fails and
//! shows what there was. Nothing sleeps to let something happen.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod client;
mod conversation;
pub mod database;
mod fuzzing;
mod log;
mod process;
mod program;
mod random;
mod source;

use std::time::{Duration, Instant};

pub use client::{Client, field};
pub use conversation::{Framing, Inbox, Received, UPGRADE, frame};
pub use database::{Database, programs_folder};
pub use fuzzing::Fuzzing;
pub use process::{Process, command, find, free_port, tail};
pub use program::{Program, run};
pub use random::Random;
pub use source::{SourceFile, circular_imports, paths_from, source_files};

/// How long anything that is waited for may take. Generous: it only ends tests that have failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Looks again and again, until there is something.
///
/// # Panics
/// There is nothing within the [`DEADLINE`].
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
