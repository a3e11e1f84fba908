//! QoS 0 pushes. They are appended at once, or held until the `connAck`, or the `subAck` of their subscription, is
//! queued.

use bytes::Bytes;

use super::queue::COPIED_BYTES;
use super::subscription::{Stage, Subscription};
use super::{Flush, Outbox, State};
use crate::packet_trace;
use crate::wire::{Pushes, RetainedPieces};

/// The held pushes, in order.
#[derive(Default)]
pub(super) struct Held {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn hold(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push(piece);
    }

    pub(super) fn hold_retained(&mut self, RetainedPieces { head, data, tail }: RetainedPieces) {
        for piece in [head.into(), data, tail.into()] {
            self.hold(piece);
        }
    }
}

impl Outbox {
    /// Appends as many QoS 0 pushes for one subscription as fit. Returns `true` if the caller must
    /// [`flush`](Self::flush).
    pub(crate) fn push(&self, subscription: &Subscription, pushes: &Pushes, flush: Flush) -> bool {
        let form = self.form();
        let options = subscription.options();
        let (mut own, limit) = (None, self.packet_limit());
        let mut framed = match options.is_special() {
            false => pushes.framed(form),
            true => {
                if let Some(group) = &self.group {
                    return self.push_to_group(group, pushes, flush);
                }
                own.insert(subscription.with_terms(|terms| pushes.framed_for(form, terms)))
            }
        };
        let within;
        if framed.bytes.len() > limit
            && let Some(fitting) = framed.at_most(limit)
        {
            self.context.counters.pushes_dropped.add((framed.ends.len() - fitting.ends.len()) as u64);
            within = fitting;
            framed = &within;
        }
        let mut state = self.lock();
        let stage = subscription.stage();
        if state.closed().is_some() || stage == Stage::Ended {
            return false;
        }
        let holding = state.is_connecting() || stage == Stage::Opening;
        let waiting = state.writer.len() + state.held_bytes();
        let count = fitting(&framed.ends, waiting, self.limit());
        let dropped = framed.ends.len() - count;
        if dropped > 0 {
            self.context.counters.pushes_dropped.add(dropped as u64);
            self.shed_if_large(&mut state);
        }
        if count == 0 {
            return false;
        }
        self.context.counters.pushes_sent.add(count as u64);
        let bytes = &framed.bytes;
        let length = framed.start(count);
        packet_trace::pushed(
            subscription.client.as_str(),
            pushes.channel().as_str(),
            0,
            count as u64,
            length,
        );
        if holding {
            state.held.get_or_insert_default().hold(framed.cut(0..count));
            self.count(&mut state);
            return false;
        }
        if state.has_aliases() {
            self.append_messages(&mut state, framed.cut(0..count));
        } else if flush == Flush::Now && state.writer.is_idle() {
            self.write_or_keep(&mut state, bytes, length);
            return false;
        } else if length <= COPIED_BYTES {
            state.writer.push_copy(&bytes[..length]);
        } else {
            state.writer.push(framed.cut(0..count));
        }
        match flush {
            Flush::Now => {
                self.flush_locked(&mut state);
                false
            }
            Flush::Later => state.writer.is_first_to_append(),
        }
    }

    pub(super) fn release_held(&self, state: &mut State) {
        for bytes in state.held.take().into_iter().flat_map(|held| held.pieces) {
            self.append_messages(state, bytes);
        }
        self.pump(state);
    }
}

/// The number of messages that fit after `waiting` bytes. An empty queue accepts one message of any size.
fn fitting(ends: &[u32], waiting: usize, limit: usize) -> usize {
    match ends.last() {
        Some(&end) if waiting + end as usize <= limit => ends.len(),
        _ => {
            let fit = ends.partition_point(|&end| waiting + end as usize <= limit);
            fit.max(usize::from(waiting == 0 && !ends.is_empty()))
        }
    }
}
