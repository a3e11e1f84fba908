//! The base of the integration tests: a real server in this process, an application with configurable answers, and
//! clients that send exactly what tests request.
//!
//! Waits are for packets, notices and the end of connections. Each has a [`DEADLINE`], after which it panics and
//! shows the traffic so far. No test sleeps to give something time.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod app;
mod client;
mod packets;
mod server;

use std::fmt::Display;
use std::time::Duration;

use jmqt_server::{ChannelName, ClientId};

pub use app::{Asked, Behaviour, Gate, Notice, OwnedControl, TestApp};
pub use client::{Client, Incoming, Push, Stream, Told};
pub use packets::PacketReader;
pub use server::TestServer;
pub use test_support::UPGRADE;

/// How long anything that is waited for may take. Generous: it only ends tests that have failed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for something that must happen.
pub async fn within<F: Future>(what: impl Display, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A valid channel name.
pub fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// A valid client id.
pub fn client_id(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}
