//! A real `jmqtd`, with clients of both languages.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod backend;
mod container;
mod logins;
mod rules;
mod secrets;
mod support;
mod usage;
