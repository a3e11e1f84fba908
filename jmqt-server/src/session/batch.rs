//! What one read has brought about and has not been written yet.
//!
//! Consecutive QoS 0 publishes to one channel are joined into one piece, encoded once, and appended once
//! to each subscriber. The number of writes dominates the cost of a fan-out; this is what keeps it low.

use std::ops::ControlFlow;
use std::sync::Arc;

use jmqt_protocol::{ChannelName, DisconnectCode, Payload};

use super::{Core, Flow};
use crate::disconnect::Disconnect;
use crate::hub::DirtyOutboxes;
use crate::log_limit::log_limited;
use crate::outbox::Flush;
use crate::transport::{Decoder, TransportError};
use crate::wire::PushesBuilder;

/// A run of pushes is delivered when it has grown to this.
const RUN_BYTES: usize = 64 * 1024;

/// About how long things take, so that the clock need not be looked at for each (in no unit: a QoS 0 publish
/// that joins its run costs 1).
pub(crate) mod cost {
    /// Whatever comes in.
    pub(crate) const PACKET: u32 = 1;
    /// A run that is delivered.
    pub(crate) const RUN: u32 = 8;
    /// A request: to the application, to the store, about subscriptions.
    pub(crate) const REQUEST: u32 = 64;
    /// After so much the clock is looked at.
    pub(crate) const LOOK: u32 = 64;
}

/// Gathered while a read is handled.
#[derive(Default)]
pub(crate) struct Batch {
    run: Option<Box<Run>>,
    dirty: DirtyOutboxes,
    /// What has been done since the clock was last looked at, in [costs](cost).
    pub(super) spent: u32,
    /// The session's own outbox is full: nothing more is handled until the client has taken some of it.
    pub(super) full: bool,
}

/// Consecutive QoS 0 publishes to one channel.
struct Run {
    channel: ChannelName,
    /// `None` if nobody is subscribed: then there is nothing to encode.
    pushes: Option<PushesBuilder>,
    published: u64,
}

impl Run {
    fn is_full(&self) -> bool {
        self.pushes.as_ref().is_some_and(|pushes| pushes.len() >= RUN_BYTES)
    }
}

impl Batch {
    /// The channel of the open run, if it has this name: saves checking the name again.
    pub(crate) fn channel_named(&self, name: &str) -> Option<&ChannelName> {
        self.run.as_ref().map(|run| &run.channel).filter(|channel| channel.as_str() == name)
    }
}

impl Core {
    /// Adds a QoS 0 publish to the batch.
    pub(crate) async fn gather(&mut self, channel: &ChannelName, data: Payload<'_>) {
        if !self.gather_at_once(channel, data) {
            let is_full = self.batch.run.as_ref().is_some_and(|run| run.is_full());
            self.deliver_run(Flush::Later).await;
            if is_full {
                self.batch.dirty.flush();
            }
            self.gather_at_once(channel, data);
        }
    }

    /// Adds a QoS 0 publish to the open run, or to a new one; `false` if the open one has to be delivered
    /// first.
    pub(crate) fn gather_at_once(&mut self, channel: &ChannelName, data: Payload<'_>) -> bool {
        let run = match &mut self.batch.run {
            Some(run) => {
                if run.channel != *channel || run.is_full() {
                    return false;
                }
                run
            }
            none => {
                let sender = self.member.as_ref().map(|member| &member.client);
                let hub = &self.shared.hub;
                let pushes = hub.has_subscribers(channel).then(|| PushesBuilder::new(channel, sender));
                none.insert(Box::new(Run { channel: channel.clone(), pushes, published: 0 }))
            }
        };
        run.published += 1;
        if let Some(pushes) = &mut run.pushes {
            pushes.push(data);
        }
        true
    }

    /// Delivers the open run, before anything that must come after it.
    pub(crate) async fn deliver_run(&mut self, flush: Flush) {
        let Some(run) = self.batch.run.take() else { return };
        let hub = Arc::clone(&self.shared.hub);
        hub.counters.messages_published.add(run.published);
        let Some(pushes) = run.pushes else { return };
        self.batch.spent += cost::RUN;
        let sender = self.member.as_ref().map(|member| &member.client);
        hub.push(&run.channel, sender, &pushes.finish(), flush, &mut self.batch.dirty).await;
    }

    /// Delivers and writes everything that was gathered.
    pub(crate) async fn end_batch(&mut self) {
        if self.batch.run.is_some() {
            // With nothing else to write, the pushes go straight from here into the sockets.
            let flush = if self.batch.dirty.is_empty() { Flush::Now } else { Flush::Later };
            self.deliver_run(flush).await;
        }
        self.batch.dirty.flush();
        self.outbox.flush();
    }

    pub(super) fn append_transport_output(&mut self, decoder: &mut Decoder) {
        let output = decoder.take_output();
        if !output.is_empty() {
            self.outbox.append(output.into());
        }
    }

    /// Nothing more can be read: ends the connection, and tells the client why.
    pub(super) fn end_transport(&mut self, error: &TransportError) -> Flow {
        tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, %error, "the transport ended");
        let reason = error.close_reason();
        let code = match error {
            TransportError::Closed | TransportError::HealthChecked => return ControlFlow::Break(reason),
            TransportError::PacketTooLarge(_) => DisconnectCode::PACKET_TOO_LARGE,
            TransportError::Violation(_) => DisconnectCode::BAD_PACKETS,
            TransportError::ForeignPage { origin } => {
                self.shared.hub.counters.origins_refused.increment();
                log_limited!(warn, target: "jmqt::session", remote = %self.info.remote, origin, "a page of another host may not connect: if it should, add its origin to ALLOWED_ORIGINS");
                DisconnectCode::BAD_PACKETS
            }
        };
        self.outbox.close_saying(reason, Disconnect::new(code, error.to_string()));
        ControlFlow::Break(reason)
    }
}
