//! What the server said in its CONNACK.

use std::fmt;

use jmqt_mqtt::{Qos, Version};

/// What the server said in its CONNACK. MQTT 3.1.1 has only `session_present`; the rest are then the values that it implies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Information {
    /// The version that is spoken.
    pub version: Version,
    /// The client id, which the server may have given.
    pub client_id: String,
    /// The server had a session of this client.
    pub session_present: bool,
    /// The keep alive in seconds; 0: none.
    pub keep_alive: u16,
    /// For how many seconds the session outlives the connection; 4,294,967,295: for ever.
    pub session_expiry: u32,
    /// How many QoS 1 and 2 messages the server takes at a time.
    pub receive_maximum: u16,
    /// The largest packet that the server takes.
    pub maximum_packet_size: Option<u32>,
    /// The highest QoS that the server takes.
    pub maximum_qos: Qos,
    /// Whether the server keeps retained messages.
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcards_available: bool,
    /// Whether subscriptions have identifiers.
    pub subscription_ids_available: bool,
    /// Whether there are shared subscriptions.
    pub shared_available: bool,
}

#[cfg(test)]
impl Information {
    /// A new session with a server of MQTT 5 that has everything.
    pub(crate) fn of_test() -> Self {
        Self {
            version: Version::V5,
            client_id: "test".to_owned(),
            session_present: false,
            keep_alive: 30,
            session_expiry: 0,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            wildcards_available: true,
            subscription_ids_available: true,
            shared_available: true,
        }
    }
}

impl fmt::Display for Information {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version.has_properties() { "MQTT 5" } else { "MQTT 3.1.1" };
        let session = if self.session_present { "a session that was there" } else { "a new session" };
        write!(f, "{version}, client id {:?}, {session}, keep alive {} s", self.client_id, self.keep_alive)?;
        if !self.version.has_properties() {
            return Ok(());
        }
        write!(
            f,
            ", QoS up to {}, {} unacknowledged messages",
            self.maximum_qos.bits(),
            self.receive_maximum
        )?;
        match self.maximum_packet_size {
            Some(size) => write!(f, ", packets up to {size} bytes")?,
            None => f.write_str(", packets of any size")?,
        }
        match self.session_expiry {
            0 => f.write_str(", session ends with the connection")?,
            u32::MAX => f.write_str(", session never expires")?,
            seconds => write!(f, ", session expires after {seconds} s")?,
        }
        for (available, what) in [
            (self.retain_available, "retained messages"),
            (self.wildcards_available, "wildcards"),
            (self.subscription_ids_available, "subscription identifiers"),
            (self.shared_available, "shared subscriptions"),
        ] {
            if !available {
                write!(f, ", no {what}")?;
            }
        }
        Ok(())
    }
}
