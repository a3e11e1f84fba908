//! The queue between the delivery of stored messages and the stored notifier of the application.
//!
//! The delivery never waits for the application: a message without room is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jmqt_core::{ChannelName, ClientId, Retain};
use tokio::sync::mpsc;

use crate::counters::Counters;
use crate::log_limit::log_limited;
use crate::message::Data;
use crate::store::Append;

/// The limit for the number of waiting messages.
const MESSAGES: usize = 8192;
/// The limit for the data bytes of waiting messages.
const BYTES: usize = 64 << 20;

/// A message that has been stored.
pub(crate) struct Stored {
    pub(crate) channel: ChannelName,
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Data,
    pub(crate) retain: Retain,
    /// Returns its bytes when dropped.
    _room: Room,
}

/// The sending end of the queue.
pub(crate) struct StoredQueue {
    messages: mpsc::Sender<Stored>,
    bytes: Arc<AtomicUsize>,
    counters: Arc<Counters>,
}

/// A reserved part of the queue's byte limit.
struct Room {
    bytes: Arc<AtomicUsize>,
    taken: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

impl StoredQueue {
    pub(crate) fn new(counters: Arc<Counters>) -> (Self, mpsc::Receiver<Stored>) {
        let (messages, receiver) = mpsc::channel(MESSAGES);
        (Self { messages, bytes: Arc::default(), counters }, receiver)
    }

    pub(super) fn offer(&self, append: &Append) {
        let taken = append.data.len();
        let before = self.bytes.fetch_add(taken, Ordering::Relaxed);
        let room = Room { bytes: Arc::clone(&self.bytes), taken };
        // One message always has room, however large it is.
        let fits = before == 0 || before + taken <= BYTES;
        let stored = Stored {
            channel: append.channel.clone(),
            sender: append.sender.clone(),
            data: Data::new(append.data.clone(), append.attributes.clone()),
            retain: if append.retain { Retain::Yes } else { Retain::No },
            _room: room,
        };
        if !fits || self.messages.try_send(stored).is_err() {
            self.counters.stored_notices_dropped.increment();
            log_limited!(warn, target: "jmqt::app", "the stored notifier is too slow and misses messages");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;

    fn append(length: usize) -> Append {
        let data = vec![b'1'; length].into();
        let channel = ChannelName::parse("news").unwrap();
        Append {
            channel,
            sender: None,
            data,
            attributes: Attributes::NONE,
            log: true,
            retain: false,
            once: None,
            received: None,
        }
    }

    #[test]
    fn the_queue_of_a_slow_notifier_is_bounded_in_number_and_bytes() {
        let counters = Arc::new(Counters::default());
        let (queue, mut waiting) = StoredQueue::new(Arc::clone(&counters));
        let dropped = || counters.snapshot().stored_notices_dropped;
        for _ in 0..MESSAGES {
            queue.offer(&append(1));
        }
        assert_eq!(dropped(), 0);
        queue.offer(&append(1));
        assert_eq!(dropped(), 1);
        while waiting.try_recv().is_ok() {}
        queue.offer(&append(BYTES + 1)); // alone, it has room
        queue.offer(&append(1));
        assert_eq!(dropped(), 2);
        drop(waiting.try_recv());
        queue.offer(&append(BYTES));
        queue.offer(&append(1));
        assert_eq!(dropped(), 3);
    }
}
