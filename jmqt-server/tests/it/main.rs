//! Tests of the server as applications and clients see it: one program, so that it is built and linked once.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod addresses;
mod bad_packets;
mod close_reasons;
mod cluster_database;
mod conn;
mod conn_fields;
mod conn_handle;
mod control;
mod databases;
mod disconnect_reasons;
mod fairness;
mod fields;
mod gate;
mod handle;
mod hooks;
mod idle;
mod limits;
mod mysql;
mod notifiers;
mod p2p;
mod panics;
mod proxy_protocol;
mod publish_once;
mod publish_order;
mod qos1;
mod redelivery;
mod reload;
mod retained;
mod server_api;
mod session_data;
mod session_limits;
mod shutdown;
mod socket;
mod store_contract;
mod store_mysql;
mod store_speed;
mod subscribe;
mod support;
mod takeover;
mod transport;
mod upgrade;
mod validators;
mod verdicts;
mod websocket;
