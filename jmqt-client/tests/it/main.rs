//! Tests of the client and its command line against real servers: one program, so that it is built and linked once.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod client_certificate;
mod command_line;
mod command_line_admin;
mod command_line_publish;
mod command_line_settings;
mod disconnect;
mod documents;
mod faults;
mod filters;
mod mqtt;
mod publish;
mod reconnect;
mod session;
mod streams;
mod support;
mod wrong_server;
