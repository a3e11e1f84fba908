//! Encodes a [`Packet`] to bytes. A packet that a receiver would refuse is an error.

use crate::error::{EncodeError, Violation};
use crate::packet::{
    Ack, Codes, ConnAck, Connect, Packet, Publish, Subscribe, SubscribeOptions, Unsubscribe, check_topic,
};
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::read::Reader;
use crate::reason::ReasonCode;
use crate::version::{Qos, Sender, Version};
use crate::write::{MAX_VARIABLE, put_binary, put_string, put_variable};

impl Packet<'_> {
    /// Appends the packet to `out`. A CONNECT is written in the version that it names itself.
    ///
    /// # Errors
    /// A field is too long, the version cannot say it, or a receiver would refuse it. Nothing has been appended then.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let kind = self.packet_type();
        match self {
            Self::Publish(publish) => {
                publish.encode_head(version, out)?;
                out.extend_from_slice(publish.payload);
                Ok(())
            }
            Self::Connect(connect) => framed(kind, out, |out| connect.write(out)),
            Self::ConnAck(ack) => framed(kind, out, |out| ack.write(version, out)),
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                framed(kind, out, |out| ack.write(kind, version, out))
            }
            Self::Subscribe(subscribe) => framed(kind, out, |out| subscribe.write(version, out)),
            Self::Unsubscribe(unsubscribe) => framed(kind, out, |out| unsubscribe.write(version, out)),
            Self::SubAck(ack) => framed(kind, out, |out| ack.write_suback(version, out)),
            Self::UnsubAck(ack) => framed(kind, out, |out| ack.write_unsuback(version, out)),
            Self::PingReq | Self::PingResp => framed(kind, out, |_| Ok(())),
            Self::Disconnect(disconnect) => framed(kind, out, |out| {
                put_reason(kind, disconnect.reason, disconnect.properties, version, out)
            }),
            Self::Auth(_) if !version.has_properties() => Err(EncodeError::NotInVersion("AUTH")),
            Self::Auth(auth) => {
                framed(kind, out, |out| put_reason(kind, auth.reason, auth.properties, version, out))
            }
        }
    }

    /// The packet as bytes of its own.
    ///
    /// # Errors
    /// As of [`encode`](Self::encode).
    pub fn to_bytes(&self, version: Version) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.encode(version, &mut out)?;
        Ok(out)
    }
}

/// Writes the fixed header around a body (2.1).
fn framed(
    kind: PacketType,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    // Most packets have a remaining length of one byte. Room for it is made here, and the body is moved if it needs more.
    out.extend_from_slice(&[kind.first_byte(), 0]);
    let length = body(out).and_then(|()| remaining_length(out.len() - start - 2));
    let length = match length {
        Ok(length) => length,
        Err(error) => {
            out.truncate(start);
            return Err(error);
        }
    };
    if length <= 0x7F {
        out[start + 1] = length as u8;
    } else {
        let mut bytes = Vec::with_capacity(4);
        put_variable(length, &mut bytes);
        out.splice(start + 1..start + 2, bytes);
    }
    Ok(())
}

fn remaining_length(length: usize) -> Result<u32, EncodeError> {
    match u32::try_from(length) {
        Ok(length) if length <= MAX_VARIABLE => Ok(length),
        _ => Err(EncodeError::PacketTooLarge),
    }
}

/// Properties, in the versions that have them.
fn put_properties(
    properties: Properties<'_>,
    version: Version,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if version.has_properties() {
        properties.encode(out)
    } else if properties.is_empty() {
        Ok(())
    } else {
        Err(EncodeError::NotInVersion("a property"))
    }
}

/// Reason code and properties in the shortest form (3.4.2.1). Before 5.0 neither is written, and only success can be said.
fn put_reason(
    kind: PacketType,
    reason: ReasonCode,
    properties: Properties<'_>,
    version: Version,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if ![Sender::Client, Sender::Server].iter().any(|&sender| reason.is_valid_in(kind, sender)) {
        return Err(Violation::ReasonCode(reason.code()).into());
    }
    if !version.has_properties() {
        if reason.is_error() {
            return Err(EncodeError::NotInVersion("a reason code"));
        }
        return put_properties(properties, version, out);
    }
    if reason != ReasonCode::SUCCESS || !properties.is_empty() {
        out.push(reason.code());
    }
    if !properties.is_empty() {
        properties.encode(out)?;
    }
    Ok(())
}

impl Connect<'_> {
    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let version = self.version;
        if self.password.is_some() && self.user_name.is_none() && !version.has_properties() {
            return Err(Violation::PasswordWithoutUserName.into());
        }
        if self.client_id.is_empty()
            && (version == Version::V3_1 || version == Version::V3_1_1 && !self.clean_start)
        {
            return Err(Violation::ClientIdMissing.into());
        }
        put_string("the protocol name", version.protocol_name(), out)?;
        out.push(version.level());
        let mut flags = u8::from(self.clean_start) << 1;
        if let Some(will) = &self.will {
            flags |= 1 << 2 | will.qos.bits() << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.password.is_some()) << 6 | u8::from(self.user_name.is_some()) << 7;
        out.push(flags);
        out.extend_from_slice(&self.keep_alive.to_be_bytes());
        put_properties(self.properties, version, out)?;
        put_string("the client id", self.client_id, out)?;
        if let Some(will) = &self.will {
            check_topic(will.topic, Properties::EMPTY)?;
            put_properties(will.properties, version, out)?;
            put_string("the will's topic", will.topic, out)?;
            put_binary("the will's payload", will.payload, out)?;
        }
        if let Some(user_name) = self.user_name {
            put_string("the user name", user_name, out)?;
        }
        if let Some(password) = self.password {
            put_binary("the password", password, out)?;
        }
        Ok(())
    }
}

impl ConnAck<'_> {
    fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.session_present && self.reason != ReasonCode::SUCCESS {
            return Err(Violation::SessionPresentWithError.into());
        }
        if !self.reason.is_valid_in(PacketType::ConnAck, Sender::Server) {
            return Err(Violation::ReasonCode(self.reason.code()).into());
        }
        let code = match version.has_properties() {
            true => self.reason.code(),
            false => self.reason.connack_v3().ok_or(EncodeError::NotInVersion("this reason code"))?,
        };
        out.push(u8::from(self.session_present && version != Version::V3_1));
        out.push(code);
        put_properties(self.properties, version, out)
    }
}

/// Where the bytes of a PUBLISH are that differ between subscribers, counted from the beginning of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patches {
    /// The packet identifier's two bytes, above QoS 0.
    pub packet_id: Option<usize>,
    /// The bytes of the head: the payload follows.
    pub head: usize,
}

impl Publish<'_> {
    /// The first byte: type, DUP, QoS, RETAIN (3.3.1).
    #[must_use]
    pub const fn first_byte(&self) -> u8 {
        PacketType::Publish.first_byte()
            | (self.delivery.dup() as u8) << 3
            | self.delivery.qos().bits() << 1
            | self.retain as u8
    }

    /// Appends everything but the payload, which a server sends to many subscribers from one place.
    ///
    /// The first byte and the packet identifier may be overwritten for each subscriber: [`Patches`] says where they are.
    ///
    /// # Errors
    /// As of [`Packet::encode`].
    pub fn encode_head(&self, version: Version, out: &mut Vec<u8>) -> Result<Patches, EncodeError> {
        let start = out.len();
        self.write_head(version, out).inspect_err(|_| out.truncate(start))
    }

    fn write_head(&self, version: Version, out: &mut Vec<u8>) -> Result<Patches, EncodeError> {
        check_topic(self.topic, self.properties)?;
        let id_length = if self.delivery.qos() == Qos::AtMostOnce { 0 } else { 2 };
        let mut length = 2 + self.topic.len() + id_length + self.payload.len();
        if version.has_properties() {
            let block = self.properties.as_bytes().len();
            length += block + variable_length(remaining_length(block)?);
        }
        let length = remaining_length(length)?;
        let start = out.len();
        out.push(self.first_byte());
        put_variable(length, out);
        put_string("the topic", self.topic, out)?;
        let packet_id = self.delivery.id().map(|id| {
            let at = out.len() - start;
            out.extend_from_slice(&id.get().to_be_bytes());
            at
        });
        put_properties(self.properties, version, out)?;
        Ok(Patches { packet_id, head: out.len() - start })
    }
}

/// How many bytes a variable byte integer has (1.5.5).
const fn variable_length(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

impl Ack<'_> {
    fn write(&self, kind: PacketType, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.id.get().to_be_bytes());
        put_reason(kind, self.reason, self.properties, version, out)
    }
}

impl Subscribe<'_> {
    fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.filters.block.is_empty() {
            return Err(Violation::NoEntries.into());
        }
        for (filter, options) in self.filters.iter() {
            if options.no_local && filter.starts_with("$share/") {
                return Err(Violation::NoLocalShared.into());
            }
            if !version.has_properties() && options != SubscribeOptions::of_qos(options.qos) {
                return Err(EncodeError::NotInVersion("a subscription option"));
            }
        }
        out.extend_from_slice(&self.id.get().to_be_bytes());
        put_properties(self.properties, version, out)?;
        out.extend_from_slice(self.filters.block);
        Ok(())
    }
}

impl Unsubscribe<'_> {
    fn write(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.filters.block.is_empty() {
            return Err(Violation::NoEntries.into());
        }
        debug_assert!(Reader::new(self.filters.block).string().is_ok());
        out.extend_from_slice(&self.id.get().to_be_bytes());
        put_properties(self.properties, version, out)?;
        out.extend_from_slice(self.filters.block);
        Ok(())
    }
}

impl Codes<'_> {
    fn write_suback(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.codes.is_empty() {
            return Err(Violation::NoEntries.into());
        }
        out.extend_from_slice(&self.id.get().to_be_bytes());
        put_properties(self.properties, version, out)?;
        self.check(PacketType::SubAck)?;
        out.extend(self.iter().map(|code| code.suback_byte(version)));
        Ok(())
    }

    fn check(&self, kind: PacketType) -> Result<(), EncodeError> {
        match self.iter().find(|code| !code.is_valid_in(kind, Sender::Server)) {
            Some(code) => Err(Violation::ReasonCode(code.code()).into()),
            None => Ok(()),
        }
    }

    /// Before 5.0 it has no codes: a refusal cannot be said (3.1.1: 3.11).
    fn write_unsuback(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.codes.is_empty() && version.has_properties() {
            return Err(Violation::NoEntries.into());
        }
        out.extend_from_slice(&self.id.get().to_be_bytes());
        put_properties(self.properties, version, out)?;
        if version.has_properties() {
            self.check(PacketType::UnsubAck)?;
            out.extend_from_slice(self.codes);
        }
        Ok(())
    }
}
