//! What the server counts, for operators and for tests that wait for something to have happened.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The running counts. Relaxed: they are read by people, not by the protocol.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
        }

        /// The counts at one moment, since the server started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct CountersSnapshot {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.get(),)+ }
            }
        }
    };
}

counters! {
    /// Connections accepted by a listener.
    connections_accepted,
    /// Connections turned away because MAX_CONNECTIONS were open.
    connections_refused,
    /// Connections turned away because their address had MAX_CONNECTIONS_PER_ADDRESS, or made
    /// MAX_CONNECTS_PER_ADDRESS_PER_SECOND.
    connections_refused_by_address,
    /// How often a listener could not accept a connection, mostly because too many files were open.
    accepts_failed,
    /// TLS handshakes that failed or took too long.
    tls_handshakes_failed,
    /// Connections from TRUSTED_PROXIES closed because they did not begin with a PROXY protocol header. Those
    /// that ended before their first byte, as simple health checks do, are not counted.
    proxy_headers_refused,
    /// WebSockets refused because a page of another host asked for them that ALLOWED_ORIGINS does not list.
    origins_refused,
    /// Connections that have ended, with a session or without.
    connections_closed,
    /// Sessions opened by a `conn`.
    sessions_opened,
    /// Sessions that have ended, close notifier included.
    sessions_closed,
    /// `conn`s refused because the client's sessions were taken over more often than MAX_TAKEOVERS_PER_SECOND.
    takeovers_refused,
    /// Connections closed because five `auth` and `conn` packets were refused on them, or 20 `auth` were sent.
    refusals_closed,
    /// Sessions ended because their token expired.
    tokens_expired,
    /// Packets that were no packets, or had unusable fields, or came before `conn` (protocol.md 2.1, 2.5).
    bad_packets,
    /// Messages published by clients and by the application.
    messages_published,
    /// QoS 1 publishes that came again after a lost connection and had been taken already (protocol.md 2.23).
    publishes_repeated,
    /// Pushes handed to outbound queues.
    pushes_sent,
    /// QoS 0 pushes dropped because an outbound queue was full.
    pushes_dropped,
    /// Clients closed because all outbound queues together held MAX_TOTAL_OUTBOUND_BYTES and theirs was large.
    outbound_closed,
    /// Connections closed because half-received packets together held MAX_TOTAL_PARTIAL_PACKET_BYTES, or before
    /// `conn` MAX_TOTAL_PRECONN_BYTES.
    partial_packets_refused,
    /// `sub`s refused because the client had as many subscriptions as it may have.
    subscriptions_refused,
    /// `pushAck`s that named no outstanding push (protocol.md 2.14).
    acks_ignored,
    /// QoS 1 pushes sent again after a reconnect.
    redeliveries,
    /// Stored messages given up because a client had more of them than MAX_PENDING_PER_CLIENT,
    /// MAX_PENDING_BYTES_PER_CLIENT or MAX_PENDING_P2P_PER_CLIENT allow.
    pending_dropped,
    /// Messages that were not retained because MAX_RETAINED_MESSAGES or MAX_RETAINED_BYTES were there already.
    retained_refused,
    /// Persistent subscriptions removed because their client did not return in SESSION_EXPIRY_SECONDS.
    subscriptions_expired,
    /// Requests answered SERVER_ERROR because a validator failed, panicked or took too long.
    validator_failures,
    /// Stored QoS 1 messages that a `StoredNotifier` was not told of, because it was too slow.
    stored_notices_dropped,
    /// Batches of pushes that did not reach other nodes, because the link to them was down or too slow. QoS 1
    /// pushes of persistent subscriptions are found in the store all the same.
    bus_dropped,
    /// What was heard in Redis and did not come from a node of this cluster and version.
    bus_refused,
    /// Store operations that failed.
    store_failures,
}

/// One count.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
