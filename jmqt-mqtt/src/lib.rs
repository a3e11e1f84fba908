#![doc = include_str!("../README.md")]

mod decode;
mod encode;
mod error;
mod escape;
mod filter;
mod frame;
mod packet;
mod packet_type;
pub mod payload;
mod property;
mod property_id;
mod read;
mod reason;
mod topic;
mod trie;
mod version;
mod write;

pub use encode::Patches;
pub use error::{Answer, DecodeError, EncodeError, Violation};
pub use escape::{
    client_to_topic, name_filter_to_topic_filter, name_to_topic, topic_to_client, topic_to_name,
};
pub use filter::Filter;
pub use frame::{Frame, FrameDecoder, Header, Peek, peek};
pub use packet::{
    Ack, Auth, Codes, ConnAck, Connect, Delivery, Disconnect, FilterBuf, Filters, NameBuf, Names, Packet,
    Publish, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe, Will,
};
pub use packet_type::PacketType;
pub use property::{Properties, Property, PropertyBuf, SubscriptionId};
pub use property_id::{Place, PropertyId};
pub use read::PacketId;
pub use reason::ReasonCode;
pub use topic::{InvalidTopic, MAX_SEPARATORS, MAX_TOPIC_BYTES, TopicName, TopicUse, is_presentable};
pub use trie::{Level, Trie};
pub use version::{Qos, Sender, Version};
