//! A client for MQTT 3.1.1 and 5 servers: Mosquitto, the JMQT server's MQTT ports, and any other.
//!
//! ```no_run
//! use jmqt_client::mqtt::{Client, Options, Publish, Qos};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::connect(Options::url("mqtt://localhost")?).await?;
//!     let mut rooms = client.subscribe("rooms/+/temperature", Qos::AtLeastOnce).await?;
//!     client.publish(&Publish::new("rooms/7/temperature", "21.5")?.at_least_once()).await?;
//!     if let Some(message) = rooms.next().await {
//!         println!("{}: {}", message.topic(), message.text()?);
//!     }
//!     client.disconnect().await;
//!     Ok(())
//! }
//! ```
//!
//! | URL | transport | port unless named |
//! |---|---|---|
//! | `mqtt://` | TCP | 1883 |
//! | `mqtts://` | TCP with TLS | 8883 |
//! | `mqtt+ws://` | WebSocket | 8083 |
//! | `mqtt+wss://` | WebSocket with TLS | 8084 |
//!
//! # What holds
//!
//! * **Connections come and go, the [`Client`] stays.** It reconnects with growing random pauses. If the server still has the
//!   session, unacknowledged messages are sent again with the same packet ids and DUP, and the subscriptions are there.
//!   [`Client::events`] tells what happens.
//! * **If the server has lost the session, the client's state of it is discarded** [MQTT-3.2.2-5]: packet ids, and which QoS 2
//!   messages have been received. What the application wanted survives: subscriptions are made again, publishes that were
//!   queued and not sent yet are sent, and QoS 1 publishes without an acknowledgement are published again, as new messages. QoS 2
//!   publishes that were sent fail with [`Error::OutcomeUnknown`], because sending them again could deliver them twice.
//!   Messages that were received and not read yet can still be read; there is nothing left to acknowledge.
//! * **Only the first connection starts clean** ([`Options::clean_start`]): later ones of the same client resume the session.
//!   MQTT 3.1.1 has one flag for both, so there each connection is clean or none is.
//! * **A message is acknowledged when the application has taken it**: when its stream is asked for the next one, or
//!   [by hand](Subscription::acknowledge_by_hand). Acknowledgements leave in the order in which the messages came
//!   [MQTT-4.6.0-2], so a stream that is not read holds back those of the others; [`Event::NotTaken`] and the log say so. What no stream is
//!   for is acknowledged and dropped, unless [`Client::messages`] reads it.
//! * **Publishes wait while there is no connection**, within `queue_bytes` ([`WhenFull`](crate::WhenFull) says what comes then).
//! * **Nothing grows without a bound.** QoS 0 messages that are not read are dropped and counted beyond `stream_bytes`. QoS 1
//!   and 2 messages are limited by `receive_maximum`. MQTT 3.1.1 cannot tell the server, so there the client stops reading the
//!   socket while so many messages wait to be taken, and with it acknowledgements of its own publishes.
//! * **After an error that trying again cannot help** (wrong password, another client with the same id) the client stops
//!   ([`Event::Stopped`]) until [`Client::reconnect`].

mod authentication;
mod client;
mod connect;
mod connection;
mod defaults;
mod diagnose;
mod error;
mod event;
mod file;
mod information;
mod message;
mod options;
mod outbound;
mod password;
mod publish;
mod received;
mod routes;
mod run;
mod server;
mod shared;
mod stream;
mod unclaimed;
mod untaken;

pub use authentication::AuthExchange;
pub use client::Client;
pub use defaults::{Codec, TopicDefault, TopicDefaults, UnknownCodec};
pub use diagnose::diagnose;
pub use error::{ConnectError, DisconnectReason, Error};
pub use event::{Event, Events};
pub use information::Information;
pub use jmqt_mqtt::{InvalidTopic, Qos, ReasonCode, RetainHandling, SubscribeOptions, Version};
pub use message::Message;
pub use options::{Options, Will};
pub use password::Password;
pub use publish::{Publish, Receipt};
pub use server::Server;
pub use stream::{Messages, Subscription};
