//! Receives messages from Redis, and detects a lost connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::Inbox;
use super::interest::Interest;
use super::names::Names;

/// Takes the messages of a connection.
pub(super) struct Received {
    inbox: Arc<Inbox>,
    names: Arc<Names>,
    interest: Arc<Interest>,
    lost: Arc<LostSignal>,
}

#[derive(Default)]
struct LostSignal {
    is_lost: AtomicBool,
    changed: Notify,
}

/// Signals that a connection is no longer usable.
pub(super) struct Lost(Arc<LostSignal>);

impl Lost {
    pub(super) async fn wait(&mut self) {
        while !self.0.is_lost.load(Ordering::Acquire) {
            self.0.changed.notified().await;
        }
    }
}

impl Received {
    pub(super) fn new(inbox: Arc<Inbox>, names: Arc<Names>, interest: Arc<Interest>) -> (Self, Lost) {
        let lost = Arc::new(LostSignal::default());
        (Self { inbox, names, interest, lost: Arc::clone(&lost) }, Lost(lost))
    }

    pub(super) fn take(&self, info: PushInfo) {
        match info.kind {
            PushKind::Message | PushKind::SMessage => {
                let mut data = info.data.into_iter();
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                    (data.next(), data.next())
                    && !self.inbox.take(&channel, payload)
                {
                    self.lose();
                }
            }
            // A cluster connection reconnects by itself, but the messages sent meanwhile are lost.
            PushKind::Disconnection => self.lose(),
            PushKind::Subscribe | PushKind::SSubscribe => {
                if let Some(Value::BulkString(name)) = info.data.first()
                    && let Ok(name) = std::str::from_utf8(name)
                    && let Some(channel) = self.names.channel_of(name)
                {
                    self.interest.subscribed(channel);
                }
            }
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                if let Some(Value::BulkString(name)) = info.data.first()
                    && !self.was_to_be_unsubscribed(name)
                {
                    self.lose();
                }
            }
            _ => {}
        }
    }

    /// Returns `true` if this node expected the end of a subscription. A cluster ends a subscription by itself when its
    /// channel moves to another shard.
    fn was_to_be_unsubscribed(&self, name: &[u8]) -> bool {
        match std::str::from_utf8(name).ok().and_then(|name| self.names.channel_of(name)) {
            Some(channel) => self.interest.unsubscribed(channel),
            None => false, // a control channel, which this node never unsubscribes
        }
    }

    fn lose(&self) {
        self.lost.is_lost.store(true, Ordering::Release);
        self.lost.changed.notify_one();
    }
}
