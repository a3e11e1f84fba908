//! What is published on a topic, and how, unless somebody says otherwise: `[topics."a/b"]` of a `client.conf`.

use std::fmt;
use std::str::FromStr;

use jmqt_mqtt::{Filter, InvalidTopic, Level, Qos};

/// How the payload of a message is written.
///
/// ```
/// use jmqt_client::mqtt::Codec;
///
/// let codec: Codec = "bool:ON,OFF".parse()?;
/// assert_eq!(codec, Codec::Bool { on: "ON".to_owned(), off: "OFF".to_owned() });
/// # Ok::<(), jmqt_client::mqtt::UnknownCodec>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Text.
    Utf8,
    /// JSON.
    Json,
    /// MessagePack, from and to JSON.
    MessagePack,
    /// CBOR (RFC 8949), from and to JSON.
    Cbor,
    /// Bytes, as they are.
    Binary,
    /// A truth value, as one of two words.
    Bool {
        /// The word for true: `on` for `bool`, `ON` for `bool:ON,OFF`.
        on: String,
        /// The word for false.
        off: String,
    },
}

/// A text is not the name of a codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of utf8, json, msgpack, cbor, binary, bool, or bool:ON,OFF with two different words")]
pub struct UnknownCodec;

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        let (name, words) = match name.trim().split_once(':') {
            Some((name, words)) => (name, Some(words.split_once(',').ok_or(UnknownCodec)?)),
            None => (name.trim(), None),
        };
        Ok(match (name.to_ascii_lowercase().as_str(), words) {
            ("utf8", None) => Self::Utf8,
            ("json", None) => Self::Json,
            ("msgpack", None) => Self::MessagePack,
            ("cbor", None) => Self::Cbor,
            ("binary", None) => Self::Binary,
            ("bool", words) => {
                let (on, off) = words.unwrap_or(("on", "off"));
                if on == off {
                    return Err(UnknownCodec);
                }
                Self::Bool { on: on.to_owned(), off: off.to_owned() }
            }
            _ => return Err(UnknownCodec),
        })
    }
}

/// The name, such as `msgpack`.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf8 => "utf8",
            Self::Json => "json",
            Self::MessagePack => "msgpack",
            Self::Cbor => "cbor",
            Self::Binary => "binary",
            Self::Bool { .. } => "bool",
        })
    }
}

/// What holds for the messages of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TopicDefault {
    /// The QoS to publish with. Default 0.
    pub qos: Qos,
    /// Whether the server is to keep them. Default `false`.
    pub is_retained: bool,
    /// How payloads are written. Default `None`: as they are.
    pub codec: Option<Codec>,
}

/// What holds for topics, by exact names and by filters.
///
/// ```
/// use jmqt_client::mqtt::{Options, Qos};
///
/// let text = "URL = 'mqtt://localhost'\n[topics.'rooms/#']\nQOS = 1\n[topics.'rooms/+/light']\nCODEC = 'bool'";
/// let options = Options::from_text(text, [("", ""); 0])?;
/// assert_eq!(options.topics.of("rooms/7/light").qos, Qos::AtLeastOnce);
/// # Ok::<(), jmqt_client::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicDefaults {
    pub(super) general: TopicDefault,
    /// The most specific last.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    filter: String,
    qos: Option<Qos>,
    is_retained: Option<bool>,
    codec: Option<Codec>,
}

impl TopicDefaults {
    /// What holds for this topic: for QoS, retained flag and codec each, what the most specific filter says that has it.
    #[must_use]
    pub fn of(&self, topic: &str) -> TopicDefault {
        let mut found = self.general.clone();
        for entry in &self.entries {
            if !Filter::parse(&entry.filter).is_ok_and(|filter| filter.matches(topic)) {
                continue;
            }
            found.qos = entry.qos.unwrap_or(found.qos);
            found.is_retained = entry.is_retained.unwrap_or(found.is_retained);
            found.codec = entry.codec.clone().or(found.codec);
        }
        found
    }

    /// With these for a filter, or an exact name.
    ///
    /// # Errors
    /// The text is no filter.
    pub fn add(
        &mut self,
        filter: &str,
        (qos, is_retained, codec): (Option<Qos>, Option<bool>, Option<Codec>),
    ) -> Result<(), InvalidTopic> {
        Filter::parse(filter)?;
        self.entries.push(Entry { filter: filter.to_owned(), qos, is_retained, codec });
        self.entries.sort_by_cached_key(|entry| specificity(&entry.filter));
        Ok(())
    }
}

/// Grows from the left with every level that is not a wildcard: `#`, `a/#`, `a/+`, `a/b`.
fn specificity(filter: &str) -> Vec<u8> {
    let Ok(filter) = Filter::parse(filter) else { return Vec::new() };
    let mut levels: Vec<u8> = filter
        .levels()
        .map(|level| match level {
            Level::Rest => 0,
            Level::One => 1,
            Level::Literal(_) => 2,
        })
        .collect();
    if levels.last() != Some(&0) {
        levels.push(3); // `a` is more specific than `a/#`
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_entry_wins_for_each_value() {
        let mut topics = TopicDefaults::default();
        let (once, twice) = (Some(Qos::AtLeastOnce), Some(Qos::ExactlyOnce));
        for (filter, values) in [
            ("a/b", (None, None, Some(Codec::Utf8))),
            ("#", (once, Some(true), Some(Codec::Json))),
            ("a/#", (twice, None, None)),
            ("a/+", (None, Some(false), Some(Codec::Cbor))),
            ("+/b", (Some(Qos::AtMostOnce), None, None)),
        ] {
            topics.add(filter, values).unwrap();
        }
        for (topic, qos, is_retained, codec) in [
            ("x", Qos::AtLeastOnce, true, Codec::Json),
            ("x/b", Qos::AtMostOnce, true, Codec::Json),
            ("a", Qos::ExactlyOnce, true, Codec::Json),
            ("a/c", Qos::ExactlyOnce, false, Codec::Cbor),
            ("a/b", Qos::ExactlyOnce, false, Codec::Utf8),
            ("a/b/c", Qos::ExactlyOnce, true, Codec::Json),
        ] {
            let found = topics.of(topic);
            assert_eq!(
                (found.qos, found.is_retained, found.codec),
                (qos, is_retained, Some(codec)),
                "{topic}"
            );
        }
        assert_eq!(topics.of("$SYS/x"), TopicDefault::default());
        topics.add("a/#/b", (None, None, None)).unwrap_err();
        topics.add("x", (twice, None, None)).unwrap();
        topics.add("x/#", (once, None, None)).unwrap();
        assert_eq!(topics.of("x").qos, Qos::ExactlyOnce);
    }

    #[test]
    fn codecs_have_names_and_bool_has_words() {
        for name in ["utf8", "json", "msgpack", "cbor", "binary", "bool"] {
            assert_eq!(name.parse::<Codec>().unwrap().to_string(), name);
        }
        assert_eq!("bool".parse::<Codec>(), "BOOL:on,off".parse());
        for name in ["", "xml", "json:a,b", "bool:on", "bool:a,a", "bool:"] {
            name.parse::<Codec>().unwrap_err();
        }
    }
}
