#![doc = include_str!("../README.md")]

mod decode;
mod encode;
mod error;
mod frame;
mod packet;
mod packet_type;
mod property;
mod read;
mod reason;
mod version;

pub use encode::Patches;
pub use error::{Answer, DecodeError, EncodeError, Violation};
pub use frame::{Frame, FrameDecoder, Header, Peek, peek};
pub use packet::{
    Ack, Auth, Codes, ConnAck, Connect, Delivery, Disconnect, FilterBuf, Filters, NameBuf, Names, Packet,
    Publish, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe, Will,
};
pub use packet_type::PacketType;
pub use property::{Place, Properties, Property, PropertyBuf, PropertyId, SubscriptionId};
pub use read::PacketId;
pub use reason::ReasonCode;
pub use version::{Qos, Sender, Version};
