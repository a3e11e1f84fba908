//! A hub for tests, over a store that does as it is told.

use std::sync::{Arc, Mutex};

use super::{Deliverer, Hub, Janitor, JanitorLimits};
use crate::budget::Budget;
use crate::bus::LocalBus;
use crate::outbox::{Outbox, OutboxContext, Redelivery};
use crate::store::{CommitQueue, Double, Epoch, Store};
use crate::wire::{Form, IdSpace};

impl Hub {
    /// With a committer and a deliverer, and a janitor that does nothing by itself.
    pub(super) fn over(store: Double) -> Arc<Self> {
        let store: Arc<dyn Store> = Arc::new(store);
        let context = Arc::new(OutboxContext {
            queue_bytes: 1 << 20,
            outbound: Arc::new(Budget::new(1 << 30)),
            counters: Arc::default(),
            ids: IdSpace::new(Epoch(0), 1),
            moved_cursors: Mutex::default(),
            unrecorded: Default::default(),
            groups: Default::default(),
        });
        let counters = Arc::clone(&context.counters);
        let (queue, committer, batches) = CommitQueue::new(Arc::clone(&store), Arc::clone(&counters));
        let limits = JanitorLimits { session_expiry: None, pending: None };
        let janitor = Arc::new(Janitor::new(Arc::clone(&store), "node".to_owned(), limits, counters));
        let hub = Arc::new(Self::new(context, store, Arc::new(LocalBus), queue, janitor, None, None));
        tokio::spawn(committer.run());
        tokio::spawn(Deliverer::new(Arc::clone(&hub), batches, None).run());
        hub
    }

    /// Of a connection whose bytes are taken by the test.
    pub(super) fn outbox(&self) -> Arc<Outbox> {
        let outbox = Outbox::new(Form::JmqtNul, None, Arc::clone(&self.context));
        outbox.set_window(128, Redelivery::AtOnce);
        Arc::new(outbox)
    }
}

impl Outbox {
    /// What is to be sent to the client now.
    pub(super) fn taken(&self) -> String {
        let mut bytes = Vec::new();
        let drained = self.drain_with(|piece| {
            bytes.extend_from_slice(piece);
            Ok(piece.len())
        });
        assert!(drained.expect("nothing can fail"));
        String::from_utf8(bytes).expect("packets are text")
    }
}
