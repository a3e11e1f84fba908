//! Properties of MQTT 5 with their values (2.2.2). `property_id` has their names and the packets that may contain them.
//!
//! A packet holds its properties as the bytes they have on the wire, checked once as a whole. So a packet is decoded without
//! an allocation, and written again byte for byte; [`Properties::iter`] and the getters walk over the bytes.

use std::fmt;

use crate::error::{EncodeError, Violation};
use crate::property_id::{Place, PropertyId, with_properties};
use crate::read::Reader;
use crate::topic::has_wildcard;
use crate::version::{Qos, Sender};
use crate::write::{MAX_VARIABLE, put_binary, put_string, put_variable};

/// Data types on the wire (1.5, 2.2.2.2): how each is read and written.
trait Wire<'a>: Copy {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation>;
    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

impl Wire<'_> for u16 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        reader.two_bytes()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.to_be_bytes());
        Ok(())
    }
}

impl Wire<'_> for u32 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        reader.four_bytes()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.to_be_bytes());
        Ok(())
    }
}

/// A byte that is 0 or 1. Any other value of it is refused where the property's name is known.
impl Wire<'_> for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        match reader.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            // The caller, which knows the property, puts its own violation in the place of this one.
            _ => Err(Violation::PropertyValue(PropertyId::PayloadFormatIndicator)),
        }
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(u8::from(self));
        Ok(())
    }
}

/// A QoS of 0 or 1: what a server that does not do QoS 2 says (3.2.2.3.4).
impl Wire<'_> for Qos {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        match reader.byte()? {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            _ => Err(Violation::PropertyValue(PropertyId::MaximumQos)),
        }
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::ExactlyOnce => Err(Violation::PropertyValue(PropertyId::MaximumQos).into()),
            _ => {
                out.push(self.bits());
                Ok(())
            }
        }
    }
}

/// A variable byte integer that is not 0 (3.8.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u32);

impl SubscriptionId {
    /// The identifier with this number; `None` for 0 and for more than 268,435,455.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 || number > MAX_VARIABLE { None } else { Some(Self(number)) }
    }

    /// The number: 1 to 268,435,455.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Wire<'_> for SubscriptionId {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Violation> {
        Self::new(reader.variable()?).ok_or(Violation::PropertyValue(PropertyId::SubscriptionIdentifier))
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_variable(self.0, out);
        Ok(())
    }
}

impl<'a> Wire<'a> for &'a str {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.string()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_string("a property", self, out)
    }
}

impl<'a> Wire<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        reader.binary()
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_binary("a property", self, out)
    }
}

/// A name and a value: both are strings [MQTT-1.5.7-1].
impl<'a> Wire<'a> for (&'a str, &'a str) {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        Ok((reader.string()?, reader.string()?))
    }

    fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_string("a user property", self.0, out)?;
        put_string("a user property", self.1, out)
    }
}

macro_rules! property_values {
    ($($(#[$doc:meta])* $id:ident($type:ty) = $number:literal, $name:literal, $places:expr;)*) => {
        /// One property with its value (2.2.2.2).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Property<'a> {
            $($(#[$doc])* $id($type),)*
        }

        impl<'a> Property<'a> {
            /// Which property it is.
            #[must_use]
            pub const fn id(&self) -> PropertyId {
                match self {
                    $(Self::$id(_) => PropertyId::$id,)*
                }
            }

            fn read_value(id: PropertyId, reader: &mut Reader<'a>) -> Result<Self, Violation> {
                Ok(match id {
                    $(PropertyId::$id => Self::$id(Wire::read(reader)?),)*
                })
            }

            fn write(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                out.push(self.id() as u8);
                match self {
                    $(Self::$id(value) => value.write(out),)*
                }
            }
        }
    };
}

with_properties!(property_values);

impl<'a> Property<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Violation> {
        let number = reader.variable()?;
        let id = PropertyId::of_number(number).ok_or(Violation::UnknownProperty(number))?;
        Self::read_value(id, reader).map_err(|violation| match violation {
            Violation::PropertyValue(_) => Violation::PropertyValue(id),
            other => other,
        })
    }

    /// Values that the data type allows and the property does not.
    fn check_value(self) -> Result<(), Violation> {
        match self {
            Self::ReceiveMaximum(0) | Self::MaximumPacketSize(0) | Self::TopicAlias(0) => {
                Err(Violation::PropertyValue(self.id()))
            }
            Self::ResponseTopic(topic) if topic.is_empty() || has_wildcard(topic) => {
                Err(Violation::ResponseTopic)
            }
            _ => Ok(()),
        }
    }
}

/// The properties of a packet or a will, checked as a whole (2.2.2). They borrow the bytes they have on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    /// Without the length in front.
    block: &'a [u8],
}

impl<'a> Properties<'a> {
    /// None.
    pub const EMPTY: Self = Self { block: &[] };

    /// Checks a block of properties, without the length in front of it.
    ///
    /// # Errors
    /// A property is unknown, does not belong in `place` or comes from the wrong side, is there twice, or has a value that
    /// it must not have; the block ends within one; there is authentication data but no method.
    pub fn check(block: &'a [u8], place: Place, sender: Sender) -> Result<Self, Violation> {
        let mut reader = Reader::new(block);
        let mut seen = 0u64;
        while !reader.is_empty() {
            let property = Property::read(&mut reader)?;
            let id = property.id();
            if !id.belongs_in(place) {
                return Err(Violation::MisplacedProperty(id));
            }
            if id.is_barred(place, sender) {
                return Err(Violation::BarredProperty(id));
            }
            let bit = 1u64 << id as u8;
            if seen & bit != 0 && !id.may_repeat(place) {
                return Err(Violation::DuplicateProperty(id));
            }
            seen |= bit;
            property.check_value()?;
        }
        let has = |id: PropertyId| seen & (1 << id as u8) != 0;
        if has(PropertyId::AuthenticationData) && !has(PropertyId::AuthenticationMethod) {
            return Err(Violation::AuthenticationMethodMissing);
        }
        Ok(Self { block })
    }

    /// Reads the length and the properties of that length.
    pub(crate) fn decode(reader: &mut Reader<'a>, place: Place, sender: Sender) -> Result<Self, Violation> {
        let length = reader.variable()?;
        let block = reader.take(length as usize)?;
        Self::check(block, place, sender)
    }

    /// Writes the length and the properties.
    pub(crate) fn encode(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_variable(self.length()?, out);
        out.extend_from_slice(self.block);
        Ok(())
    }

    fn length(self) -> Result<u32, EncodeError> {
        match u32::try_from(self.block.len()) {
            Ok(length) if length <= MAX_VARIABLE => Ok(length),
            _ => Err(EncodeError::PacketTooLarge),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.block.is_empty()
    }

    /// The bytes on the wire, without the length in front of them.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.block
    }

    /// The properties in the order they were sent.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let mut reader = Reader::new(self.block);
        // The block has been checked: an error cannot come.
        std::iter::from_fn(move || if reader.is_empty() { None } else { Property::read(&mut reader).ok() })
    }

    /// Appends the properties that belong to the message, not to its way, unaltered and in order: payload format indicator,
    /// content type, response topic, correlation data and user properties ([MQTT-3.3.2-4], -15 to -18, -20). What is left out
    /// (message expiry, topic alias, subscription identifiers, will delay) is different for each receiver.
    pub fn forward(self, out: &mut Vec<u8>) {
        let mut reader = Reader::new(self.block);
        while !reader.is_empty() {
            let start = reader.rest();
            let Ok(property) = Property::read(&mut reader) else { return };
            if matches!(
                property.id(),
                PropertyId::PayloadFormatIndicator
                    | PropertyId::ContentType
                    | PropertyId::ResponseTopic
                    | PropertyId::CorrelationData
                    | PropertyId::UserProperty
            ) {
                out.extend_from_slice(&start[..start.len() - reader.len()]);
            }
        }
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $id:ident($type:ty);)*) => {
        impl<'a> Properties<'a> {
            $($(#[$doc])* #[must_use] pub fn $name(self) -> Option<$type> {
                self.iter().find_map(|property| match property {
                    Property::$id(value) => Some(value),
                    _ => None,
                })
            })*
        }
    };
}

getters! {
    /// Whether the payload is declared to be UTF-8 text (3.3.2.3.2).
    payload_format_indicator: PayloadFormatIndicator(bool);
    /// Message expiry interval, in seconds (3.3.2.3.3).
    message_expiry: MessageExpiryInterval(u32);
    /// Content type (3.3.2.3.9).
    content_type: ContentType(&'a str);
    /// Response topic (3.3.2.3.5).
    response_topic: ResponseTopic(&'a str);
    /// Correlation data (3.3.2.3.6).
    correlation_data: CorrelationData(&'a [u8]);
    /// The subscription identifier of a SUBSCRIBE, or the first of a PUBLISH (3.8.2.1.2).
    subscription_id: SubscriptionIdentifier(SubscriptionId);
    /// Session expiry interval, in seconds; 0xFFFFFFFF is never (3.1.2.11.2).
    session_expiry: SessionExpiryInterval(u32);
    /// Assigned client identifier (3.2.2.3.7).
    assigned_client_id: AssignedClientIdentifier(&'a str);
    /// Server keep alive, in seconds (3.2.2.3.14).
    server_keep_alive: ServerKeepAlive(u16);
    /// Authentication method (3.1.2.11.9).
    authentication_method: AuthenticationMethod(&'a str);
    /// Authentication data (3.1.2.11.10).
    authentication_data: AuthenticationData(&'a [u8]);
    /// Request problem information; absent is true (3.1.2.11.7).
    request_problem_information: RequestProblemInformation(bool);
    /// Will delay interval, in seconds (3.1.3.2.2).
    will_delay: WillDelayInterval(u32);
    /// Request response information; absent is false (3.1.2.11.6).
    request_response_information: RequestResponseInformation(bool);
    /// Response information (3.2.2.3.15).
    response_information: ResponseInformation(&'a str);
    /// Server reference (3.2.2.3.16).
    server_reference: ServerReference(&'a str);
    /// Reason string (3.2.2.3.9).
    reason_string: ReasonString(&'a str);
    /// Receive maximum; absent is 65,535 (3.1.2.11.3).
    receive_maximum: ReceiveMaximum(u16);
    /// Topic alias maximum; absent is 0 (3.1.2.11.5).
    topic_alias_maximum: TopicAliasMaximum(u16);
    /// Topic alias (3.3.2.3.4).
    topic_alias: TopicAlias(u16);
    /// Maximum QoS; absent is 2 (3.2.2.3.4).
    maximum_qos: MaximumQos(Qos);
    /// Retain available; absent is true (3.2.2.3.5).
    retain_available: RetainAvailable(bool);
    /// Maximum packet size, in bytes with the fixed header; absent is no limit (3.1.2.11.4).
    maximum_packet_size: MaximumPacketSize(u32);
    /// Wildcard subscription available; absent is true (3.2.2.3.11).
    wildcard_subscription_available: WildcardSubscriptionAvailable(bool);
    /// Subscription identifier available; absent is true (3.2.2.3.12).
    subscription_identifier_available: SubscriptionIdentifierAvailable(bool);
    /// Shared subscription available; absent is true (3.2.2.3.13).
    shared_subscription_available: SharedSubscriptionAvailable(bool);
}

impl<'a> Properties<'a> {
    /// The user properties, in order (2.2.2.2).
    pub fn user_properties(self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(pair) => Some(pair),
            _ => None,
        })
    }

    /// The subscription identifiers of a PUBLISH (3.3.2.3.8).
    pub fn subscription_ids(self) -> impl Iterator<Item = SubscriptionId> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }
}

/// Properties to be sent, in the order they are pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertyBuf {
    block: Vec<u8>,
}

impl PropertyBuf {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { block: Vec::new() }
    }

    /// Adds a property.
    ///
    /// # Errors
    /// Its string or data is longer than 65,535 bytes or has U+0000; it has a value that it must not have. Nothing is added
    /// then.
    pub fn push(&mut self, property: Property<'_>) -> Result<(), EncodeError> {
        property.check_value()?;
        let start = self.block.len();
        property.write(&mut self.block).inspect_err(|_| self.block.truncate(start))
    }

    /// Adds properties as they are on the wire, those that [`Properties::forward`] wrote for example.
    pub fn push_checked(&mut self, properties: Properties<'_>) {
        self.block.extend_from_slice(properties.as_bytes());
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// Leaves out what was added after this length, an optional reason string for example [MQTT-3.4.2-2].
    pub fn truncate(&mut self, len: usize) {
        self.block.truncate(len);
    }

    /// The properties for a packet.
    ///
    /// # Errors
    /// They do not belong there, or one is there twice.
    pub fn for_place(&self, place: Place, sender: Sender) -> Result<Properties<'_>, Violation> {
        Properties::check(&self.block, place, sender)
    }
}
