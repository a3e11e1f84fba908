//! Wills: messages that MQTT clients leave for the end of their connections.

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Qos};

use super::{Attributes, StoreError};

/// The most wills that [`Store::due_wills`](super::Store::due_wills) returns.
pub const WILLS_AT_A_TIME: usize = 32;

/// The identity of a will: the session of the client that left it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillKey {
    /// The client.
    pub client: ClientId,
    /// The generation of the session.
    pub generation: u64,
    /// The process that serves the session.
    pub node: String,
}

/// A stored will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWill {
    /// Its identity.
    pub key: WillKey,
    /// The protocol of the connection, as in [`SessionRow`](super::SessionRow).
    pub protocol: String,
    /// The address of the client.
    pub address: String,
    /// The channel.
    pub channel: ChannelName,
    /// The data.
    pub data: Bytes,
    /// The form of the data, and what only MQTT knows. Its moment of expiry is counted as if 1970 were the moment at which
    /// the will is published.
    pub attributes: Attributes,
    /// The QoS with which the will is published.
    pub qos: Qos,
    /// The will replaces the retained message of its channel.
    pub retain: bool,
    /// The seconds between the end of the connection and the publish. The end of the session ends the delay.
    pub delay: u32,
}

impl StoredWill {
    /// The bytes of the data and the attributes as stored.
    pub(super) fn stored_bytes(&self) -> usize {
        self.data.len() + self.attributes.encoded_bytes()
    }
}

/// The columns of a will, in the order in which both databases read and write them.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
macro_rules! columns {
    () => {
        "client_id, generation, node_id, protocol, address, channel, qos, retain, delay_seconds, attributes, data"
    };
}
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub(super) use columns;

/// The delay in a row.
pub(super) fn delay_of(seconds: u64) -> Result<u32, StoreError> {
    u32::try_from(seconds).map_err(|_| StoreError::Corrupt { what: "delay of a will" })
}

/// The QoS as a number.
pub(super) const fn qos_level(qos: Qos) -> i64 {
    match qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    }
}

/// The QoS with this number.
pub(super) fn qos_of(level: u64) -> Result<Qos, StoreError> {
    match level {
        0 => Ok(Qos::AtMostOnce),
        1 => Ok(Qos::AtLeastOnce),
        2 => Ok(Qos::ExactlyOnce),
        _ => Err(StoreError::Corrupt { what: "QoS of a will" }),
    }
}
