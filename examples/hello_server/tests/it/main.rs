//! Tests of a server as a process: one program, so that it is built and linked once.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod disk_full;
mod expiry;
mod hostile_input;
mod kill;
mod many_connections;
mod memory;
mod restore;
mod signals;
mod slow_subscribers;
mod support;
mod tls;
