//! A real `jmqt-lb` process, and clients and backends that the test holds in its own hands.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod balancer;
mod network;

use std::time::Duration;

pub use balancer::{Balancer, command, configuration};
pub use network::{Backend, Client, exchange, is_closed, next_of, read, try_exchange, until, write};

/// How long anything that is waited for may take. Generous: it only ends tests that have failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub const MIB: u64 = 1 << 20;
