//! A cluster of real processes, clients that record all packets, and a checker of these records.
//!
//! [`Cluster`] starts nodes, a MariaDB, a Redis and a balancer, all private, on 127.0.0.1 and in a temporary
//! folder; each can be killed, stopped and started again. [`Load`] keeps publishers and persistent
//! subscribers of both languages busy meanwhile. They use no client library, which would hide what is checked. [`check()`] lists the rules of
//! protocol.md that were broken.
//!
//! Each test of this crate causes one fault; the program `torture` causes one fault after another.

// Used by tests and by a program that tests: a panic here is a failed test.
#![allow(clippy::unwrap_used)]

pub mod balancer;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod connection;
pub mod journal;
pub mod load;
pub mod mariadb;
mod mourned;
pub mod mqtt;
pub mod mqtt_kind;
mod mqtt_publisher;
mod mqtt_subscriber;
pub mod node;
pub mod notices;
pub mod process;
pub mod proxy;
mod publisher;
pub mod pulse;
pub mod redis_server;
mod rival;
pub mod server;
pub mod session;
mod subscriber;

use std::fmt::Display;
use std::time::Duration;

pub use checker::{Report, check};
pub use client::Client;
pub use cluster::{Cluster, Options};
pub use load::Load;
pub use notices::{Event, Notice};
pub use proxy::Proxy;
pub use pulse::Pulse;
pub use redis_server::RedisServer;
pub use session::{LoadOptions, Target};
pub use test_support::Random;

/// How long anything that is waited for may take. Generous: it only ends what has failed.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// The interval between two looks at something that sends no event.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for something that must happen.
///
/// # Panics
/// If it does not happen within [`DEADLINE`].
pub async fn within<F: Future>(what: impl Display, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Looks repeatedly until there is a result.
///
/// # Panics
/// If there is not within [`DEADLINE`].
pub async fn until<T>(what: impl Display, mut look: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await
}
