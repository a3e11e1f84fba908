//! Filters with wildcards, which name many channels (protocol.md 2.25).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use jmqt_mqtt::Filter;
use jmqt_protocol::MAX_CHANNEL_BYTES;

/// A filter for channels: levels with `/` between them. The level `+` stands for one level of any text, the last level `#` for
/// any number of levels, also none (protocol.md 2.25). Cheap to clone.
///
/// ```
/// use jmqt_client::ChannelFilter;
///
/// let filter = ChannelFilter::parse("rooms/+/temperature")?;
/// assert!(filter.matches("rooms/7/temperature") && !filter.matches("rooms/7/light"));
/// # Ok::<(), jmqt_client::InvalidFilter>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelFilter(Arc<str>);

/// The text is no filter for plain channels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{filter:?} is not a filter: {because}")]
pub struct InvalidFilter {
    filter: Box<str>,
    because: Box<str>,
}

impl ChannelFilter {
    /// Trims and checks a filter.
    ///
    /// # Errors
    /// [`InvalidFilter`] if it has no wildcard, `+` or `#` together with other text in one level, `#` in another level than
    /// the last one, a control character, more than 512 bytes or 200 `/`, or begins with `$`.
    pub fn parse(filter: &str) -> Result<Self, InvalidFilter> {
        let filter = filter.trim();
        let invalid = |because: &str| InvalidFilter { filter: filter.into(), because: because.into() };
        if filter.len() > MAX_CHANNEL_BYTES {
            return Err(invalid("it is longer than 512 bytes"));
        }
        if filter.starts_with('$') {
            return Err(invalid("wildcards do not match control channels"));
        }
        let parsed = Filter::parse(filter).map_err(|error| invalid(&error.to_string()))?;
        if !parsed.has_wildcard() {
            return Err(invalid("it has neither `+` nor `#`; subscribe to the channel of this name"));
        }
        Ok(Self(filter.into()))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches this channel. It matches plain channels only.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        !channel.starts_with(['$', '#']) && Filter::parse(&self.0).is_ok_and(|filter| filter.matches(channel))
    }
}

/// For lookups by text.
impl Borrow<str> for ChannelFilter {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a filter: a [`ChannelFilter`], which has been checked, or text, which is checked now.
pub trait IntoFilter {
    /// The checked filter.
    ///
    /// # Errors
    /// [`InvalidFilter`] if it is none.
    fn into_filter(self) -> Result<ChannelFilter, InvalidFilter>;
}

impl IntoFilter for ChannelFilter {
    fn into_filter(self) -> Result<ChannelFilter, InvalidFilter> {
        Ok(self)
    }
}

impl IntoFilter for &ChannelFilter {
    fn into_filter(self) -> Result<ChannelFilter, InvalidFilter> {
        Ok(self.clone())
    }
}

impl IntoFilter for &str {
    fn into_filter(self) -> Result<ChannelFilter, InvalidFilter> {
        ChannelFilter::parse(self)
    }
}

impl IntoFilter for &String {
    fn into_filter(self) -> Result<ChannelFilter, InvalidFilter> {
        ChannelFilter::parse(self)
    }
}

impl IntoFilter for String {
    fn into_filter(self) -> Result<ChannelFilter, InvalidFilter> {
        ChannelFilter::parse(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The TypeScript client has the same table.
    const TABLE: &str = include_str!("../tests/filters.json");

    #[derive(serde::Deserialize)]
    struct Table {
        matching: Vec<(String, String, bool)>,
        invalid: Vec<String>,
    }

    #[test]
    fn filters_match_as_in_the_table() {
        let table: Table = serde_json::from_str(TABLE).unwrap();
        assert!(!table.matching.is_empty() && !table.invalid.is_empty());
        for (filter, channel, is_match) in table.matching {
            let parsed = ChannelFilter::parse(&filter).unwrap();
            assert_eq!(parsed.matches(&channel), is_match, "{filter} and {channel}");
        }
        for filter in table.invalid {
            assert!(ChannelFilter::parse(&filter).is_err(), "{filter}");
        }
        assert_eq!(ChannelFilter::parse(" a/+ ").unwrap().as_str(), "a/+");
        ChannelFilter::parse(&format!("{}/+", "x".repeat(511))).unwrap_err();
    }
}
