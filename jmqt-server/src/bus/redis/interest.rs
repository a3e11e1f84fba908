//! Tracks the channels that this node needs, and their subscriptions in Redis.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jmqt_core::ChannelName;
use redis::RedisResult;
use tokio::sync::Notify;

use super::link::Link;
use crate::name_map::NameMap;

/// The most channels in one command.
const CHANNELS_AT_A_TIME: usize = 512;

#[derive(Default)]
struct Entry {
    /// The number of subscriptions of this node that need the channel.
    members: usize,
    /// Redis has confirmed it.
    subscribed: bool,
    /// The confirmation has been received, in the order of the messages of the connection.
    confirmed: bool,
}

#[derive(Default)]
struct Channels {
    entries: NameMap<ChannelName, Entry>,
    /// Channels whose subscription in Redis may have to change.
    changed: Vec<ChannelName>,
    /// Channels with unconfirmed UNSUBSCRIBE requests, and the number of these requests.
    leaving: NameMap<ChannelName, usize>,
    /// `true` while connected: every change is sent. Without a connection no changes are recorded, because a new
    /// connection subscribes all channels.
    is_linked: bool,
}

/// See the module documentation.
#[derive(Default)]
pub(super) struct Interest {
    channels: Mutex<Channels>,
    changed: Notify,
    confirmed: Notify,
}

/// The next changes to send to Redis.
#[derive(Default)]
struct Orders {
    subscribe: Vec<ChannelName>,
    unsubscribe: Vec<ChannelName>,
}

impl Interest {
    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One member more.
    pub(super) fn join(&self, channel: &ChannelName) {
        let mut channels = self.lock();
        let Channels { entries, changed, is_linked, .. } = &mut *channels;
        let entry = entries.entry(channel.clone()).or_default();
        entry.members += 1;
        if entry.members == 1 && *is_linked {
            changed.push(channel.clone());
            self.changed.notify_one();
        }
    }

    /// Returns when Redis has confirmed, or at once without a connection.
    pub(super) async fn joined(&self, channel: &ChannelName, is_up: impl Fn() -> bool) {
        loop {
            // `notified` receives notifications from here on, even before it is polled.
            let confirmed = self.confirmed.notified();
            if !is_up() || self.lock().entries.get(channel).is_none_or(|entry| entry.subscribed) {
                return;
            }
            confirmed.await;
        }
    }

    /// One member less.
    pub(super) fn leave(&self, channel: &ChannelName) {
        let mut channels = self.lock();
        let Channels { entries, changed, is_linked, .. } = &mut *channels;
        let Some(entry) = entries.get_mut(channel) else { return };
        entry.members = entry.members.saturating_sub(1);
        if entry.members > 0 {
            return;
        }
        if *is_linked {
            changed.push(channel.clone());
            self.changed.notify_one();
        } else {
            entries.remove(channel);
        }
    }

    /// Handles the confirmation of a subscription, in the order of the received messages.
    pub(super) fn subscribed(&self, channel: &str) {
        if let Some(entry) = self.lock().entries.get_mut(channel) {
            entry.confirmed = true;
        }
    }

    /// Returns `true` if all messages in the channel that follow those received until now are received.
    pub(super) fn is_joined(&self, channel: &ChannelName) -> bool {
        self.lock().entries.get(channel).is_some_and(|entry| entry.confirmed)
    }

    /// Handles the end of a subscription in Redis; `false` if this node did not request it, and needs
    /// the channel.
    pub(super) fn unsubscribed(&self, channel: &str) -> bool {
        let mut channels = self.lock();
        let Channels { entries, leaving, .. } = &mut *channels;
        if let Some(asked) = leaving.get_mut(channel) {
            *asked -= 1;
            if *asked == 0 {
                leaving.remove(channel);
            }
            return true;
        }
        entries.get(channel).is_none_or(|entry| entry.members == 0)
    }

    /// Handles a lost connection: no channel is subscribed, and waiting callers continue.
    pub(super) fn link_lost(&self) {
        let mut channels = self.lock();
        channels.entries.retain(|_, entry| {
            (entry.subscribed, entry.confirmed) = (false, false);
            entry.members > 0
        });
        channels.changed.clear();
        channels.leaving.clear();
        channels.is_linked = false;
        drop(channels);
        self.confirmed.notify_waiters();
    }

    pub(super) fn link_is_up(&self) {
        self.confirmed.notify_waiters();
    }

    /// Subscribes all channels on a new connection.
    pub(super) async fn subscribe_all(&self, link: &Link, name: impl Fn(&str) -> String) -> RedisResult<()> {
        self.link_begins();
        self.tell(link, &name).await
    }

    fn link_begins(&self) {
        let mut channels = self.lock();
        let Channels { entries, changed, is_linked, .. } = &mut *channels;
        *is_linked = true;
        changed.clear();
        changed.extend(entries.keys().cloned());
    }

    /// Sends every change, until the connection ends.
    pub(super) async fn keep(&self, link: &Link, name: impl Fn(&str) -> String) -> RedisResult<()> {
        loop {
            self.tell(link, &name).await?;
            self.changed.notified().await;
        }
    }

    async fn tell(&self, link: &Link, name: &impl Fn(&str) -> String) -> RedisResult<()> {
        loop {
            let orders = self.orders();
            if orders.subscribe.is_empty() && orders.unsubscribe.is_empty() {
                return Ok(());
            }
            let names = |channels: &[ChannelName]| channels.iter().map(|it| name(it.as_str())).collect();
            for some in orders.unsubscribe.chunks(CHANNELS_AT_A_TIME) {
                link.unsubscribe(names(some)).await?;
            }
            for some in orders.subscribe.chunks(CHANNELS_AT_A_TIME) {
                link.subscribe(names(some)).await?;
                self.confirm(some);
            }
        }
    }

    /// Takes the changes. Channels to unsubscribe count as unsubscribed from here on, so that a
    /// new member subscribes again.
    fn orders(&self) -> Orders {
        let mut channels = self.lock();
        let mut orders = Orders::default();
        let Channels { entries, changed, leaving, .. } = &mut *channels;
        changed.sort_unstable();
        changed.dedup();
        for channel in changed.drain(..) {
            let Some(entry) = entries.get(&channel) else { continue };
            match (entry.members > 0, entry.subscribed) {
                (true, false) => orders.subscribe.push(channel),
                (false, true) => {
                    entries.remove(&channel);
                    *leaving.entry(channel.clone()).or_default() += 1;
                    orders.unsubscribe.push(channel);
                }
                (false, false) => drop(entries.remove(&channel)),
                (true, true) => {}
            }
        }
        orders
    }

    fn confirm(&self, subscribed: &[ChannelName]) {
        let mut channels = self.lock();
        let Channels { entries, changed, .. } = &mut *channels;
        for channel in subscribed {
            // All members may have left meanwhile: then the entry still exists, or it is gone and Redis
            // must unsubscribe.
            let entry = entries.entry(channel.clone()).or_default();
            (entry.subscribed, entry.confirmed) = (true, true);
            if entry.members == 0 {
                changed.push(channel.clone());
            }
        }
        drop(channels);
        self.confirmed.notify_waiters();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// With a connection that has received no commands yet.
    #[cfg(test)]
    fn linked() -> Self {
        let interest = Self::default();
        interest.link_begins();
        interest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    #[test]
    fn the_first_member_subscribes_and_the_last_one_unsubscribes() {
        let interest = Interest::linked();
        let news = channel("news");
        interest.join(&news);
        interest.join(&news);
        let orders = interest.orders();
        assert_eq!(orders.subscribe, std::slice::from_ref(&news));
        interest.confirm(&orders.subscribe);
        interest.leave(&news);
        assert!(interest.orders().unsubscribe.is_empty(), "somebody is still there");
        interest.leave(&news);
        assert_eq!(interest.orders().unsubscribe, [news]);
        assert_eq!(interest.len(), 0);
    }

    #[test]
    fn a_member_that_joins_during_an_unsubscription_subscribes_again() {
        let interest = Interest::linked();
        let news = channel("news");
        interest.join(&news);
        interest.confirm(&interest.orders().subscribe);
        interest.leave(&news);
        assert_eq!(interest.orders().unsubscribe.len(), 1);
        interest.join(&news);
        assert_eq!(interest.orders().subscribe, [news]);
    }

    #[test]
    fn a_member_that_leaves_during_a_subscription_is_unsubscribed_afterwards() {
        let interest = Interest::linked();
        let news = channel("news");
        interest.join(&news);
        let orders = interest.orders();
        interest.leave(&news);
        assert!(interest.orders().unsubscribe.is_empty());
        interest.confirm(&orders.subscribe);
        assert_eq!(interest.orders().unsubscribe, [news]);
        assert_eq!(interest.len(), 0);
    }

    #[tokio::test]
    async fn joining_does_not_wait_for_a_lost_connection() {
        let interest = Interest::linked();
        let news = channel("news");
        interest.join(&news);
        let mut joining = Box::pin(interest.joined(&news, || true));
        assert!(futures_util::poll!(&mut joining).is_pending());
        interest.confirm(&interest.orders().subscribe);
        joining.await;
        let (up, other) = (std::cell::Cell::new(true), channel("other"));
        interest.join(&other);
        let mut joining = Box::pin(interest.joined(&other, || up.get()));
        assert!(futures_util::poll!(&mut joining).is_pending());
        up.set(false);
        interest.link_lost();
        joining.await;
    }

    #[test]
    fn changes_without_a_connection_are_not_recorded() {
        let interest = Interest::default();
        let (news, other) = (channel("news"), channel("other"));
        interest.join(&other);
        for _ in 0..1000 {
            interest.join(&news);
            interest.leave(&news);
        }
        assert_eq!((interest.len(), interest.lock().changed.len()), (1, 0));
        interest.link_begins();
        assert_eq!(interest.orders().subscribe, std::slice::from_ref(&other));
        interest.link_lost();
        interest.leave(&other);
        assert_eq!((interest.len(), interest.lock().changed.len()), (0, 0));
    }

    #[test]
    fn an_unexpected_end_of_a_needed_subscription_is_a_loss() {
        let interest = Interest::linked();
        let news = channel("news");
        interest.join(&news);
        interest.confirm(&interest.orders().subscribe);
        assert!(!interest.unsubscribed("news"));
        assert!(interest.unsubscribed("other"), "nobody needs it");
        interest.leave(&news);
        assert_eq!(interest.orders().unsubscribe, std::slice::from_ref(&news));
        interest.join(&news);
        interest.confirm(&interest.orders().subscribe);
        assert!(interest.unsubscribed("news"), "asked before somebody came again");
        assert!(!interest.unsubscribed("news"));
    }
}
