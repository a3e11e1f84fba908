//! A cluster of real processes, clients that note everything they see, and a checker of their notes.
//!
//! [`Cluster`] starts nodes, a MariaDB, a Redis and a balancer, all private, on 127.0.0.1 and in a temporary
//! folder; each can be killed, stopped and started again. [`Load`] keeps publishers and persistent
//! subscribers busy meanwhile, on connections of their own making: what is checked is what a client
//! library would hide. [`check()`] says what of protocol.md did not hold.
//!
//! The tests of this crate do one fault each; the program `torture` does them one after another.

// Used by tests and by a program that tests: what fails here is a test that fails.
#![allow(clippy::unwrap_used)]

pub mod balancer;
pub mod checker;
pub mod client;
pub mod cluster;
pub mod connection;
pub mod journal;
pub mod load;
pub mod mariadb;
pub mod node;
pub mod notices;
pub mod process;
pub mod proxy;
mod publisher;
pub mod pulse;
pub mod random;
pub mod redis_server;
mod rival;
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
pub use random::Random;
pub use redis_server::RedisServer;
pub use session::{LoadOptions, Target};

/// How long anything that is waited for may take. Generous: it only ends what has failed.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// How often one looks at what cannot be waited for in another way.
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

/// Looks again and again until there is something to see.
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
