//! Subscriptions to topics below `$reply/`, on which the replies to the requests of this connection arrive. They end with the
//! connection, and no other client sees the replies.

use jmqt_mqtt::{Filter, SubscriptionId};

/// The topics of replies.
pub(super) const PREFIX: &str = "$reply/";
/// The most filters of a connection.
const MAX_FILTERS: usize = 16;

/// The filters of a connection.
#[derive(Default)]
pub(super) struct Replies(Vec<(Box<str>, Option<SubscriptionId>)>);

/// The connection has as many filters as it may.
pub(super) struct TooMany;

impl Replies {
    /// Adds a filter, or replaces its subscription identifier.
    pub(super) fn add(&mut self, filter: Filter<'_>, id: Option<SubscriptionId>) -> Result<(), TooMany> {
        if let Some((_, old)) = self.0.iter_mut().find(|(of, _)| **of == *filter.as_str()) {
            *old = id;
            return Ok(());
        }
        if self.0.len() >= MAX_FILTERS {
            return Err(TooMany);
        }
        self.0.push((filter.as_str().into(), id));
        Ok(())
    }

    /// Removes a filter; returns `false` if it is not there.
    pub(super) fn remove(&mut self, filter: Filter<'_>) -> bool {
        let before = self.0.len();
        self.0.retain(|(of, _)| **of != *filter.as_str());
        self.0.len() < before
    }

    /// The subscription identifiers of the filters that match this topic; `None` if none matches.
    pub(super) fn matching(&self, topic: &str) -> Option<Vec<SubscriptionId>> {
        let mut matching =
            self.0.iter().filter(|(of, _)| Filter::parse(of).is_ok_and(|of| of.matches(topic))).peekable();
        matching.peek()?;
        Some(matching.filter_map(|(_, id)| *id).collect())
    }
}
