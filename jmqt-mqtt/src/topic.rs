//! Topic names that have been checked, and what their `$` space means to a JMQT server (4.7).

use std::borrow::Cow;

use crate::escape::{topic_to_client, topic_to_name};
use crate::reason::ReasonCode;

/// The longest topic and filter, in bytes.
pub const MAX_TOPIC_BYTES: usize = 2048;
/// The most `/` in a topic and in a filter.
pub const MAX_SEPARATORS: usize = 200;

/// Why a topic or filter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTopic {
    /// It is empty [MQTT-4.7.3-1].
    #[error("the topic is empty")]
    Empty,
    /// It has more than [`MAX_TOPIC_BYTES`].
    #[error("the topic has more than 2,048 bytes")]
    TooLong,
    /// It has more than [`MAX_SEPARATORS`].
    #[error("the topic has more than 201 levels")]
    TooManyLevels,
    /// A topic name has `+` or `#` [MQTT-4.7.0-1], [MQTT-3.3.2-2].
    #[error("a topic name contains a wildcard")]
    Wildcard,
    /// It has a control character, a Unicode non-character or U+0000 (1.5.4, [MQTT-4.7.3-2]).
    #[error("the topic contains the character U+{0:04X}")]
    Character(u32),
    /// `#` does not stand alone in the last level [MQTT-4.7.1-1].
    #[error("`#` is not alone in the last level")]
    MultiLevelWildcard,
    /// `+` does not stand alone in its level [MQTT-4.7.1-2].
    #[error("`+` is not alone in its level")]
    SingleLevelWildcard,
    /// `$share/` is not followed by a group and a filter [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    #[error("`$share/` is not followed by a group and a filter")]
    Share,
}

impl InvalidTopic {
    /// The code for a topic name. Before 5.0 the connection is closed.
    #[must_use]
    pub const fn reason_for_name(self) -> ReasonCode {
        match self {
            Self::Character(_) => ReasonCode::MALFORMED_PACKET,
            Self::Empty => ReasonCode::PROTOCOL_ERROR,
            _ => ReasonCode::TOPIC_NAME_INVALID,
        }
    }

    /// The code in the SUBACK or UNSUBACK for a filter, where there is one. Before 5.0 the connection is closed.
    #[must_use]
    pub const fn reason_for_filter(self) -> ReasonCode {
        ReasonCode::TOPIC_FILTER_INVALID
    }

    /// The number of the normative statement of MQTT 5 that is broken.
    #[must_use]
    pub const fn statement(self) -> Option<&'static str> {
        Some(match self {
            Self::Empty => "MQTT-4.7.3-1",
            Self::Wildcard => "MQTT-4.7.0-1",
            Self::Character(0) => "MQTT-4.7.3-2",
            Self::MultiLevelWildcard => "MQTT-4.7.1-1",
            Self::SingleLevelWildcard => "MQTT-4.7.1-2",
            Self::Share => "MQTT-4.8.2-2",
            Self::TooLong | Self::TooManyLevels | Self::Character(_) => return None,
        })
    }
}

/// A topic name: 1 to 2,048 bytes, at most 200 `/`, no wildcard, no control character (4.7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicName<'a>(&'a str);

/// What a topic is for a JMQT server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicUse<'a> {
    /// A plain JMQT channel with this name.
    Channel(Cow<'a, str>),
    /// `$name`: a request to the control channel with this name.
    Control(Cow<'a, str>),
    /// `$p2p/ID`: a message to the client with this id.
    Peer(Cow<'a, str>),
    /// `$SYS` and what is below it: only the server publishes there.
    Sys,
    /// `$reply` and what is below it: only the server publishes there.
    Reply,
    /// `$share` and what is below it, which only filters have.
    Share,
    /// `$` alone, or `$p2p` without an id.
    Nothing,
}

impl<'a> TopicName<'a> {
    /// Checks the topic of a PUBLISH, a will or a response.
    ///
    /// # Errors
    /// It is not a topic name, or above a limit.
    pub fn parse(topic: &'a str) -> Result<Self, InvalidTopic> {
        check_text(topic)?;
        if has_wildcard(topic) {
            return Err(InvalidTopic::Wildcard);
        }
        Ok(Self(topic))
    }

    /// The topic as it is on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// What the topic is for.
    #[must_use]
    pub fn usage(self) -> TopicUse<'a> {
        if !self.0.starts_with('$') {
            return TopicUse::Channel(topic_to_name(self.0));
        }
        let (first, rest) = match self.0.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (self.0, None),
        };
        match (first, rest) {
            ("$SYS", _) => TopicUse::Sys,
            ("$share", _) => TopicUse::Share,
            ("$reply", _) => TopicUse::Reply,
            ("$p2p", Some(id)) if !id.is_empty() => TopicUse::Peer(topic_to_client(id)),
            ("$p2p", _) | ("$", None) => TopicUse::Nothing,
            _ => TopicUse::Control(topic_to_name(self.0)),
        }
    }
}

/// Whether a topic or filter has a `+` or `#`.
pub(crate) fn has_wildcard(topic: &str) -> bool {
    memchr::memchr2(b'+', b'#', topic.as_bytes()).is_some()
}

/// What topic names and filters have in common (4.7.3).
pub(crate) fn check_text(text: &str) -> Result<(), InvalidTopic> {
    if text.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(InvalidTopic::TooLong);
    }
    if memchr::memchr_iter(b'/', text.as_bytes()).count() > MAX_SEPARATORS {
        return Err(InvalidTopic::TooManyLevels);
    }
    match first_barred(text) {
        Some(barred) => Err(InvalidTopic::Character(barred.into())),
        None => Ok(()),
    }
}

/// Whether MQTT clients may be sent this topic: many of them take control characters and non-characters for a malformed
/// packet (1.5.4).
#[must_use]
pub fn is_presentable(topic: &str) -> bool {
    first_barred(topic).is_none()
}

fn first_barred(text: &str) -> Option<char> {
    // Plain ASCII, which nearly all topics are, is decided without decoding characters.
    if text.bytes().all(|byte| matches!(byte, 0x20..=0x7E)) {
        return None;
    }
    text.chars().find(|&character| is_barred(character))
}

/// Control characters and non-characters, which a sender should not use and a receiver may refuse (1.5.4).
const fn is_barred(character: char) -> bool {
    let number = character as u32;
    matches!(number, 0x00..=0x1F | 0x7F..=0x9F | 0xFDD0..=0xFDEF) || number & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3] [MQTT-4.7.0-1] [MQTT-3.3.2-2]
    fn topic_names_are_checked() {
        for good in [
            "a",
            "/",
            " ",
            "a/b//",
            "/finance",
            "Accounts payable",
            "é",
            "$SYS/x",
            &"x".repeat(2048),
            &"/".repeat(200),
        ] {
            assert!(TopicName::parse(good).is_ok(), "{good}");
        }
        for (bad, error) in [
            ("", InvalidTopic::Empty),
            ("a/+", InvalidTopic::Wildcard),
            ("#", InvalidTopic::Wildcard),
            ("a\0", InvalidTopic::Character(0)),
            ("a\n", InvalidTopic::Character(10)),
            ("\u{85}", InvalidTopic::Character(0x85)),
            ("\u{FFFF}", InvalidTopic::Character(0xFFFF)),
            ("\u{1FFFE}", InvalidTopic::Character(0x1FFFE)),
            ("\u{FDD0}", InvalidTopic::Character(0xFDD0)),
            (&"x".repeat(2049), InvalidTopic::TooLong),
            (&"/".repeat(201), InvalidTopic::TooManyLevels),
        ] {
            assert_eq!(TopicName::parse(bad), Err(error), "{bad:?}");
            assert_eq!(is_presentable(bad), !matches!(error, InvalidTopic::Character(_)));
        }
    }

    #[test]
    fn the_dollar_space_is_given_out() {
        let usage = |topic| TopicName::parse(topic).unwrap().usage();
        assert_eq!(usage("a/b"), TopicUse::Channel("a/b".into()));
        assert_eq!(usage(" a"), TopicUse::Channel(" a".into())); // [MQTT-4.7.3-4]: nothing is trimmed
        assert_eq!(usage("room%233"), TopicUse::Channel("room#3".into()));
        assert_eq!(usage("%23bob"), TopicUse::Channel("%23bob".into()));
        assert_eq!(usage("$list"), TopicUse::Control("$list".into()));
        assert_eq!(usage("$a/b%2B"), TopicUse::Control("$a/b+".into()));
        assert_eq!(usage("$/x"), TopicUse::Control("$/x".into()));
        assert_eq!(usage("$p2p/bob"), TopicUse::Peer("bob".into()));
        assert_eq!(usage("$p2p/a/%23b"), TopicUse::Peer("a/#b".into()));
        assert_eq!(usage("$p2p/%23b"), TopicUse::Peer("#b".into()));
        for topic in ["$", "$p2p", "$p2p/"] {
            assert_eq!(usage(topic), TopicUse::Nothing, "{topic}");
        }
        assert_eq!((usage("$SYS"), usage("$SYS/broker/uptime")), (TopicUse::Sys, TopicUse::Sys));
        assert_eq!(usage("$SYSTEM"), TopicUse::Control("$SYSTEM".into()));
        assert_eq!((usage("$share/g/a"), usage("$reply/list")), (TopicUse::Share, TopicUse::Reply));
    }
}
