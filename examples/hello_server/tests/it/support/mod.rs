//! A real `hello_server` process, and blocking clients that speak to it.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod bystanders;
mod process;

use std::io::{ErrorKind, Read};
use std::time::Instant;

pub use bystanders::Bystanders;
pub use process::{Process, command, run};
pub use test_support::{Client, DEADLINE, field, frame};

pub const MIB: u64 = 1 << 20;

/// Reads until the other side closes; whether it does within the deadline.
pub fn is_closed(stream: &mut impl Read) -> bool {
    let mut chunk = [0; 4096];
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            // A process that was stopped meanwhile goes on reading.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}
