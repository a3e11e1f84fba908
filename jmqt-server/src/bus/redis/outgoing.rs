//! The queue of messages to publish.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jmqt_core::ChannelName;
use tokio::sync::{Notify, watch};

use crate::bus::{NodeId, message};

/// The most queued bytes. Control messages may use twice as much.
const WAITING_BYTES: usize = 64 << 20;
/// Pushes are joined to a payload up to this size.
const JOINED_BYTES: usize = 64 << 10;
/// The last messages that pushes may be joined to.
const LOOKED_AT: usize = 3;
/// The most messages of one pipeline, and about the most bytes.
const BATCH_MESSAGES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// The memory of a message in addition to its payload.
const OVERHEAD: usize = 128;

/// The receivers of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The nodes that joined the channel.
    Channel(ChannelName),
    Node(NodeId),
    All,
}

impl Target {
    /// One node.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(*node),
            _ => None,
        }
    }
}

struct Waiting {
    target: Target,
    payload: Vec<u8>,
    /// The length of the header that more pushes may share; 0 if no pushes can be added.
    header: usize,
}

#[derive(Default)]
struct Queue {
    /// Control messages do not wait behind pushes, so that a node under load does not appear dead.
    control: VecDeque<(Target, Vec<u8>)>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// The number of payloads of pushes added, and removed, since the start.
    put: u64,
    taken: u64,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.control.is_empty() && self.waiting.is_empty()
    }

    /// The waiting payload that these pushes can be joined to. The same pushes for other targets may be in between.
    fn joinable(&mut self, target: &Target, payload: &[u8], header: usize) -> Option<&mut Waiting> {
        let is_alike = |waiting: &&mut Waiting| {
            waiting.header == header
                && message::is_of_same_publisher(&waiting.payload[..header], &payload[..header])
        };
        let last = self.waiting.iter_mut().rev().take(LOOKED_AT).take_while(is_alike);
        let mut last = last.skip_while(|waiting| waiting.target != *target);
        last.next().filter(|last| {
            last.payload[..header] == payload[..header] && last.payload.len() + payload.len() <= JOINED_BYTES
        })
    }
}

/// Two bounded queues, control messages and pushes, each in order.
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    ready: Notify,
    /// The number of payloads of pushes that were sent or dropped.
    sent: watch::Sender<u64>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self { queue: Mutex::default(), ready: Notify::new(), sent: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message at the end, or joins its pushes to the last message if it has the same header; `false`
    /// if the queue is full.
    pub(super) fn put(&self, target: Target, payload: Vec<u8>, header: usize) -> bool {
        let mut queue = self.lock();
        let is_control = !message::is_pushes(&payload);
        let limit = if is_control { 2 * WAITING_BYTES } else { WAITING_BYTES };
        if queue.bytes > 0 && queue.bytes + payload.len() > limit {
            return false;
        }
        if header > 0
            && let Some(last) = queue.joinable(&target, &payload, header)
        {
            last.payload.extend_from_slice(&payload[header..]);
            queue.bytes += payload.len() - header;
            return true;
        }
        queue.bytes += payload.len() + OVERHEAD;
        if is_control {
            queue.control.push_back((target, payload));
        } else {
            queue.put += 1;
            queue.waiting.push_back(Waiting { target, payload, header });
        }
        if queue.control.len() + queue.waiting.len() == 1 {
            self.ready.notify_one();
        }
        true
    }

    /// Waits until the queue contains a message.
    pub(super) async fn ready(&self) {
        while self.lock().is_empty() {
            self.ready.notified().await;
        }
    }

    /// Takes some messages, control messages first.
    pub(super) fn take(&self) -> Vec<(Target, Vec<u8>)> {
        let mut queue = self.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_MESSAGES
            && let Some((target, payload)) = queue.control.pop_front()
        {
            bytes += payload.len();
            queue.bytes -= payload.len() + OVERHEAD;
            batch.push((target, payload));
        }
        while batch.len() < BATCH_MESSAGES
            && bytes < BATCH_BYTES
            && let Some(next) = queue.waiting.pop_front()
        {
            bytes += next.payload.len();
            queue.bytes -= next.payload.len() + OVERHEAD;
            queue.taken += 1;
            batch.push((next.target, next.payload));
        }
        batch
    }

    /// Records that Redis has received all taken messages.
    pub(super) fn taken_was_sent(&self) {
        let taken = self.lock().taken;
        self.sent.send_replace(taken);
    }

    /// Waits until all pushes added before have been sent or dropped.
    pub(super) async fn sent(&self) {
        let put = self.lock().put;
        // The sender is in `self`, so the channel does not close.
        drop(self.sent.subscribe().wait_for(|sent| *sent >= put).await);
    }

    /// Drops all messages; returns the number of dropped payloads of pushes.
    pub(super) fn clear(&self) -> u64 {
        let mut queue = self.lock();
        let (pushes, put) = (queue.waiting.len(), queue.put);
        *queue = Queue { put, taken: put, ..Queue::default() };
        self.sent.send_replace(put);
        pushes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;
    use crate::bus::message::{encode_control, encode_qos0};
    use crate::bus::{Because, Body, BusMessage, Control, Speaker};
    use crate::message::{Pieces, Run, place};
    use crate::store::Epoch;

    const SPEAKER: Speaker = Speaker { node: NodeId(1), epoch: Epoch(1) };

    fn pushes(channel: &str, data: &[u8]) -> (Target, Vec<u8>, usize) {
        let channel = ChannelName::parse(channel).unwrap();
        let pieces = Pieces { bytes: data.to_vec().into(), ends: [place(data.len())].into() };
        let run = Run { attributes: Attributes::NONE, pieces, before: 0, behind: 0 };
        let (payload, header) = encode_qos0(SPEAKER, Because::Joined, &channel, None, &run);
        (Target::Channel(channel), payload, header)
    }

    fn put(outgoing: &Outgoing, (target, payload, header): (Target, Vec<u8>, usize)) -> bool {
        outgoing.put(target, payload, header)
    }

    #[test]
    fn consecutive_pushes_of_one_channel_and_publisher_share_a_payload_after_control_messages() {
        let outgoing = Outgoing::new();
        for (channel, bytes) in [("a", b"1"), ("a", b"2"), ("b", b"3"), ("a", b"4")] {
            assert!(put(&outgoing, pushes(channel, bytes)));
        }
        let beat = encode_control(SPEAKER, &Control::Leaving);
        assert!(outgoing.put(Target::All, beat.clone(), 0) && outgoing.put(Target::All, beat, 0));
        let sent: Vec<_> = outgoing.take().into_iter().map(|(_, payload)| payload).collect();
        let pushes =
            |payload: &Vec<u8>| match BusMessage::decode(payload.clone().into(), SPEAKER.epoch).unwrap().body
            {
                Body::Qos0(messages) => messages.run.data().collect::<Vec<_>>().join(&b','),
                _ => b"beat".to_vec(),
            };
        let sent: Vec<_> = sent.iter().map(pushes).collect();
        assert_eq!(sent, [b"beat", b"beat", &b"1,2"[..], b"3", b"4"]);
        assert!(outgoing.take().is_empty());
        assert_eq!(outgoing.lock().bytes, 0);
    }

    #[test]
    fn copies_for_nodes_do_not_keep_pushes_from_sharing_a_payload() {
        let outgoing = Outgoing::new();
        for (channel, data) in [("a", b"1"), ("a", b"2"), ("b", b"3"), ("a", b"4")] {
            for node in [1, 2] {
                let (_, payload, header) = pushes(channel, data);
                assert!(outgoing.put(Target::Node(NodeId(node)), payload, header));
            }
            assert!(put(&outgoing, pushes(channel, data)));
        }
        let sent: Vec<_> =
            outgoing.take().into_iter().map(|(target, payload)| (target.node(), payload)).collect();
        assert_eq!(
            sent.iter().map(|(node, _)| node.map(|node| node.0)).collect::<Vec<_>>(),
            [Some(1), Some(2), None].repeat(3)
        );
        assert!(sent[0].1.ends_with(b"2") && sent[2].1.ends_with(b"2") && sent[3].1.ends_with(b"3"));
    }

    #[test]
    fn the_queue_is_bounded_and_control_messages_have_extra_room() {
        let outgoing = Outgoing::new();
        let large = vec![b'1'; 1 << 20];
        let mut taken = 0;
        while put(&outgoing, pushes("a", &large)) {
            taken += 1;
        }
        assert_eq!(taken, 63); // each payload also has a header
        assert!(outgoing.put(Target::All, encode_control(SPEAKER, &Control::Leaving), 0));
        assert_eq!(outgoing.clear(), 63);
        assert!(put(&outgoing, pushes("a", &large)));
    }
}
