//! Tests of the balancer as a process: one program, so that it is built and linked once.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod backends;
mod command_line;
mod forwarding;
mod lifecycle;
mod proxy_protocol;
mod stall;
mod status;
mod support;
