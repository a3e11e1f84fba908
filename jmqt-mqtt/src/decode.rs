//! Decodes bytes to a [`Packet`]. A packet that breaks a rule of the specification is refused; the error names the rule.

use crate::error::{DecodeError, Violation};
use crate::frame::Frame;
use crate::packet::{
    Ack, Auth, Codes, ConnAck, Connect, Delivery, Disconnect, Filters, Names, Packet, Publish, Subscribe,
    SubscribeOptions, Unsubscribe, Will, check_topic,
};
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::Place;
use crate::read::{PacketId, Reader};
use crate::reason::ReasonCode;
use crate::version::{Qos, Sender, Version};

impl<'a> Connect<'a> {
    /// Reads the first packet of a connection, which says what version the client speaks (3.1).
    ///
    /// # Errors
    /// It is not a CONNECT [MQTT-3.1.0-1], or breaks a rule.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, DecodeError> {
        let packet = PacketType::of_first_byte(frame.first);
        let mut version = None;
        let result = match packet {
            Some(PacketType::Connect) => connect(frame, &mut version),
            _ => Err(Violation::WrongDirection),
        };
        result.map_err(|violation| DecodeError { packet, version, violation })
    }
}

impl<'a> Packet<'a> {
    /// Reads a packet of a connection whose version is known.
    ///
    /// A CONNECT is read too, with the version that it says itself: a server refuses a second one [MQTT-3.1.0-2].
    ///
    /// # Errors
    /// It breaks a rule, or `sender` never sends such a packet.
    pub fn decode(frame: &Frame<'a>, version: Version, sender: Sender) -> Result<Self, DecodeError> {
        let packet = PacketType::of_first_byte(frame.first);
        let refused = |violation| DecodeError { packet, version: Some(version), violation };
        let Some(kind) = packet else { return Err(refused(Violation::ReservedType(frame.first >> 4))) };
        if kind == PacketType::Connect && sender == Sender::Client {
            return Connect::decode(frame).map(Self::Connect);
        }
        check_header(frame, kind, version).map_err(refused)?;
        if !kind.may_come_from(sender, version) {
            return Err(refused(match kind {
                PacketType::Auth => Violation::ReservedType(15),
                _ => Violation::WrongDirection,
            }));
        }
        body(frame, kind, version, sender).map_err(refused)
    }
}

fn check_header(frame: &Frame<'_>, kind: PacketType, version: Version) -> Result<(), Violation> {
    let flags = frame.first & 0x0F;
    if !kind.accepts_flags(flags, version) {
        return Err(Violation::Flags(flags));
    }
    // MQTT 3.1.1 has no such rule, and some small devices write lengths in a fixed number of bytes.
    if !frame.minimal_length && version.has_properties() {
        return Err(Violation::LengthNotMinimal);
    }
    Ok(())
}

fn body<'a>(
    frame: &Frame<'a>,
    kind: PacketType,
    version: Version,
    sender: Sender,
) -> Result<Packet<'a>, Violation> {
    let reader = Reader::new(frame.body);
    let properties = |reader: &mut Reader<'a>| match version.has_properties() {
        true => Properties::decode(reader, Place::Packet(kind), sender),
        false => Ok(Properties::EMPTY),
    };
    Ok(match kind {
        PacketType::Publish => Packet::Publish(publish(frame.first, reader, properties)?),
        PacketType::PubAck => Packet::PubAck(ack(reader, kind, version, sender)?),
        PacketType::PubRec => Packet::PubRec(ack(reader, kind, version, sender)?),
        PacketType::PubRel => Packet::PubRel(ack(reader, kind, version, sender)?),
        PacketType::PubComp => Packet::PubComp(ack(reader, kind, version, sender)?),
        PacketType::Subscribe => Packet::Subscribe(subscribe(reader, version, properties)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(unsubscribe(reader, properties)?),
        PacketType::SubAck => Packet::SubAck(suback(reader, version, properties)?),
        PacketType::UnsubAck => Packet::UnsubAck(unsuback(reader, version, properties)?),
        PacketType::ConnAck => Packet::ConnAck(connack(reader, version, properties)?),
        PacketType::PingReq => reader.end().map(|()| Packet::PingReq)?,
        PacketType::PingResp => reader.end().map(|()| Packet::PingResp)?,
        PacketType::Disconnect => {
            let (reason, properties) = reason_and_properties(reader, kind, version, sender)?;
            Packet::Disconnect(Disconnect { reason, properties })
        }
        PacketType::Auth => {
            let bare = reader.is_empty();
            let (reason, properties) = reason_and_properties(reader, kind, version, sender)?;
            // The short form, success without properties, is allowed (3.15.2.1); else there is a method (3.15.2.2.2).
            if !bare && properties.authentication_method().is_none() {
                return Err(Violation::AuthenticationMethodMissing);
            }
            Packet::Auth(Auth { reason, properties })
        }
        // Only a client sends it, and that has been dealt with.
        PacketType::Connect => return Err(Violation::WrongDirection),
    })
}

/// `said` becomes the version as soon as it is known, for the answer to an error in what follows.
fn connect<'a>(frame: &Frame<'a>, said: &mut Option<Version>) -> Result<Connect<'a>, Violation> {
    let mut reader = Reader::new(frame.body);
    let name = reader.string()?;
    let version = match (name, reader.byte()?) {
        ("MQTT", 5) => Version::V5,
        ("MQTT", 4) => Version::V3_1_1,
        ("MQIsdp", 3) => Version::V3_1,
        ("MQTT" | "MQIsdp", level) => return Err(Violation::ProtocolLevel(level)),
        _ => return Err(Violation::ProtocolName),
    };
    *said = Some(version);
    check_header(frame, PacketType::Connect, version)?;

    let flags = ConnectFlags::read(reader.byte()?, version)?;
    let keep_alive = reader.two_bytes()?;
    let properties = |reader: &mut Reader<'a>, place| match version.has_properties() {
        true => Properties::decode(reader, place, Sender::Client),
        false => Ok(Properties::EMPTY),
    };
    let connect_properties = properties(&mut reader, Place::Packet(PacketType::Connect))?;
    // The payload has its fields in this order [MQTT-3.1.3-1].
    let client_id = reader.string()?;
    let needs_id = match version {
        Version::V3_1 => true,
        Version::V3_1_1 => !flags.clean_start,
        Version::V5 => false,
    };
    if client_id.is_empty() && needs_id {
        return Err(Violation::ClientIdMissing);
    }
    let will = match flags.will {
        None => None,
        Some((qos, retain)) => {
            let properties = properties(&mut reader, Place::Will)?;
            let topic = reader.string()?;
            check_topic(topic, Properties::EMPTY)?;
            Some(Will { qos, retain, topic, payload: reader.binary()?, properties })
        }
    };
    // MQTT 3.1 lets a packet end before a user name or password that its flags announce.
    let is_there = |flag: bool, reader: Reader<'_>| flag && !(version == Version::V3_1 && reader.is_empty());
    let user_name = if is_there(flags.user_name, reader) { Some(reader.string()?) } else { None };
    let password = if is_there(flags.password, reader) { Some(reader.binary()?) } else { None };
    reader.end()?;
    Ok(Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive,
        client_id,
        will,
        user_name,
        password,
        properties: connect_properties,
    })
}

/// The connect flags (3.1.2.3).
struct ConnectFlags {
    clean_start: bool,
    will: Option<(Qos, bool)>,
    user_name: bool,
    password: bool,
}

impl ConnectFlags {
    fn read(flags: u8, version: Version) -> Result<Self, Violation> {
        let is_set = |bit: u8| flags & (1 << bit) != 0;
        if is_set(0) {
            return Err(Violation::ConnectReservedFlag);
        }
        let (user_name, password) = (is_set(7), is_set(6));
        if password && !user_name && !version.has_properties() {
            return Err(Violation::PasswordWithoutUserName);
        }
        let will = match (is_set(2), Qos::from_bits(flags >> 3 & 0b11), is_set(5)) {
            (true, Some(qos), retain) => Some((qos, retain)),
            (true, None, _) => return Err(Violation::WillQos),
            (false, Some(Qos::AtMostOnce), false) => None,
            (false, ..) => return Err(Violation::WillFlags),
        };
        Ok(Self { clean_start: is_set(1), will, user_name, password })
    }
}

fn connack<'a>(
    mut reader: Reader<'a>,
    version: Version,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<ConnAck<'a>, Violation> {
    let flags = reader.byte()?;
    let code = reader.byte()?;
    // In MQTT 3.1 the first byte is unused and not checked.
    let session_present = version != Version::V3_1 && flags & 1 == 1;
    if version != Version::V3_1 && flags & !1 != 0 {
        return Err(Violation::ConnAckFlags);
    }
    let reason = if version.has_properties() {
        let reason = ReasonCode::new(code);
        reason.is_valid_in(PacketType::ConnAck, Sender::Server).then_some(reason)
    } else {
        ReasonCode::of_connack_v3(code)
    };
    let reason = reason.ok_or(Violation::ReasonCode(code))?;
    if session_present && reason != ReasonCode::SUCCESS {
        return Err(Violation::SessionPresentWithError);
    }
    let properties = properties(&mut reader)?;
    reader.end()?;
    Ok(ConnAck { session_present, reason, properties })
}

fn publish<'a>(
    first: u8,
    mut reader: Reader<'a>,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<Publish<'a>, Violation> {
    let qos = Qos::from_bits(first >> 1 & 0b11).ok_or(Violation::Qos3)?;
    let (dup, retain) = (first & 0b1000 != 0, first & 1 != 0);
    if dup && qos == Qos::AtMostOnce {
        return Err(Violation::DupAtQos0);
    }
    let topic = reader.string()?;
    let delivery = match qos {
        Qos::AtMostOnce => Delivery::AtMostOnce,
        Qos::AtLeastOnce => Delivery::AtLeastOnce { id: reader.packet_id()?, dup },
        Qos::ExactlyOnce => Delivery::ExactlyOnce { id: reader.packet_id()?, dup },
    };
    let properties = properties(&mut reader)?;
    check_topic(topic, properties)?;
    Ok(Publish { delivery, retain, topic, properties, payload: reader.rest() })
}

fn ack(
    mut reader: Reader<'_>,
    kind: PacketType,
    version: Version,
    sender: Sender,
) -> Result<Ack<'_>, Violation> {
    let id = reader.packet_id()?;
    let (reason, properties) = reason_and_properties(reader, kind, version, sender)?;
    Ok(Ack { id, reason, properties })
}

/// A reason code and properties, both of which may be left out at the end of a packet (3.4.2.1, 3.4.2.2.1, 3.14.2.1).
fn reason_and_properties(
    mut reader: Reader<'_>,
    kind: PacketType,
    version: Version,
    sender: Sender,
) -> Result<(ReasonCode, Properties<'_>), Violation> {
    if !version.has_properties() {
        reader.end()?;
        return Ok((ReasonCode::SUCCESS, Properties::EMPTY));
    }
    let reason = if reader.is_empty() { ReasonCode::SUCCESS } else { ReasonCode::new(reader.byte()?) };
    if !reason.is_valid_in(kind, sender) {
        return Err(Violation::ReasonCode(reason.code()));
    }
    let properties = match reader.is_empty() {
        true => Properties::EMPTY,
        false => Properties::decode(&mut reader, Place::Packet(kind), sender)?,
    };
    reader.end()?;
    Ok((reason, properties))
}

/// The packet identifier, the properties, and what follows: at least one entry, which is not read.
fn entries<'a>(
    reader: &mut Reader<'a>,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<(PacketId, Properties<'a>, &'a [u8]), Violation> {
    let (id, properties) = (reader.packet_id()?, properties(reader)?);
    match reader.rest() {
        [] => Err(Violation::NoEntries),
        entries => Ok((id, properties, entries)),
    }
}

fn subscribe<'a>(
    mut reader: Reader<'a>,
    version: Version,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<Subscribe<'a>, Violation> {
    let (id, properties, block) = entries(&mut reader, properties)?;
    while !reader.is_empty() {
        let filter = reader.string()?;
        let options = SubscribeOptions::read(reader.byte()?, version)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(Violation::NoLocalShared);
        }
    }
    Ok(Subscribe { id, properties, filters: Filters { block } })
}

fn unsubscribe<'a>(
    mut reader: Reader<'a>,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<Unsubscribe<'a>, Violation> {
    let (id, properties, block) = entries(&mut reader, properties)?;
    while !reader.is_empty() {
        reader.string()?;
    }
    Ok(Unsubscribe { id, properties, filters: Names { block } })
}

fn suback<'a>(
    mut reader: Reader<'a>,
    version: Version,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<Codes<'a>, Violation> {
    let (id, properties, codes) = entries(&mut reader, properties)?;
    let is_valid = |code: u8| match version.has_properties() {
        true => ReasonCode::new(code).is_valid_in(PacketType::SubAck, Sender::Server),
        false => matches!(code, 0..=2 | 0x80),
    };
    match codes.iter().find(|&&code| !is_valid(code)) {
        Some(&code) => Err(Violation::ReasonCode(code)),
        None => Ok(Codes { id, properties, codes }),
    }
}

fn unsuback<'a>(
    mut reader: Reader<'a>,
    version: Version,
    properties: impl Fn(&mut Reader<'a>) -> Result<Properties<'a>, Violation>,
) -> Result<Codes<'a>, Violation> {
    if !version.has_properties() {
        let id = reader.packet_id()?;
        reader.end()?;
        return Ok(Codes { id, properties: Properties::EMPTY, codes: &[] });
    }
    let (id, properties, codes) = entries(&mut reader, properties)?;
    match codes.iter().find(|&&code| !ReasonCode::new(code).is_valid_in(PacketType::UnsubAck, Sender::Server))
    {
        Some(&code) => Err(Violation::ReasonCode(code)),
        None => Ok(Codes { id, properties, codes }),
    }
}
