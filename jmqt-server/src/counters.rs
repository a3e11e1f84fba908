//! The counters of the server, for operators and for tests that wait for an event.

mod measures;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use measures::{Histogram, Kind, Measures, Outcome, Validator};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The live counters. Relaxed ordering is enough: no logic depends on them.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
            /// What only the admin listener shows; `None` if the server has none.
            measures: Option<Box<Measures>>,
        }

        /// A snapshot of the counters, which begin at 0 when the server starts.
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

        impl CountersSnapshot {
            /// Each counter: its name, its name as a metric, what it counts, and its value.
            pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> {
                const ALL: usize = [$(stringify!($name)),+].len();
                let all: [_; ALL] = [$((
                    stringify!($name),
                    concat!("jmqt_", stringify!($name), "_total"),
                    concat!($($doc),+),
                    self.$name,
                )),+];
                all.into_iter()
            }
        }
    };
}

counters! {
    /// Connections accepted by a listener.
    connections_accepted,
    /// Connections refused because MAX_CONNECTIONS were open.
    connections_refused,
    /// Connections refused because their address reached MAX_CONNECTIONS_PER_ADDRESS or
    /// MAX_CONNECTS_PER_ADDRESS_PER_SECOND.
    connections_refused_by_address,
    /// Failed attempts of listeners to accept a connection, mostly because too many files were open.
    accepts_failed,
    /// TLS handshakes that failed or took too long.
    tls_handshakes_failed,
    /// Of these, handshakes of clients without a certificate, or with one that is not accepted (SSL_CLIENT_CERT).
    client_certificates_refused,
    /// Connections from TRUSTED_PROXIES closed because they did not begin with a PROXY protocol header. Connections
    /// that end before their first byte, such as simple health checks, are not counted.
    proxy_headers_refused,
    /// WebSockets refused because the page is of another host, and ALLOWED_ORIGINS does not contain its origin.
    origins_refused,
    /// Connections refused because the client has the wrong port: TLS at a port without TLS, MQTT at a port for JMQT, and so
    /// on.
    wrong_ports,
    /// Connections that have ended, with or without a session.
    connections_closed,
    /// Sessions opened by a `conn`.
    sessions_opened,
    /// Sessions that have ended, including their close notifiers.
    sessions_closed,
    /// `conn` packets refused because the client's sessions were taken over more often than MAX_TAKEOVERS_PER_SECOND.
    takeovers_refused,
    /// Reads after which a client had to wait, because it sends more than MAX_PACKETS_PER_SECOND_PER_CLIENT or
    /// MAX_BYTES_PER_SECOND_PER_CLIENT.
    senders_slowed,
    /// Connections closed because the client would have had to wait for more than ten seconds.
    senders_disconnected,
    /// Connections closed because five `auth` and `conn` packets were refused on them, or 20 `auth` were sent.
    refusals_closed,
    /// Sessions ended because their token expired.
    tokens_expired,
    /// Packets that were invalid, had invalid fields, or came before `conn` (protocol.md 2.1, 2.5).
    bad_packets,
    /// Packets received, of any type.
    packets_received,
    /// Bytes read from connections, without those of TLS, of handshakes and of PROXY protocol headers.
    bytes_received,
    /// Bytes written to connections, without those of TLS and of handshakes.
    bytes_sent,
    /// Wills of MQTT clients that were published.
    wills_published,
    /// Publishes of MQTT clients that were refused.
    publishes_refused,
    /// Messages published by clients and by the application.
    messages_published,
    /// QoS 1 publishes that were repeated after a lost connection, and were stored already (protocol.md 2.23).
    publishes_repeated,
    /// Pushes added to outbound queues.
    pushes_sent,
    /// QoS 0 pushes dropped because an outbound queue was full.
    pushes_dropped,
    /// Connections closed because all outbound queues together reached MAX_TOTAL_OUTBOUND_BYTES and theirs was large.
    outbound_closed,
    /// Connections closed because incomplete packets together reached MAX_TOTAL_PARTIAL_PACKET_BYTES or, before
    /// `conn`, MAX_TOTAL_PRECONN_BYTES.
    partial_packets_refused,
    /// `sub` packets refused because the client had reached its limit of subscriptions.
    subscriptions_refused,
    /// `pushAck` packets that matched no outstanding push (protocol.md 2.14).
    acks_ignored,
    /// QoS 1 pushes sent again after a reconnect.
    redeliveries,
    /// Stored messages dropped because a client exceeded MAX_PENDING_PER_CLIENT,
    /// MAX_PENDING_BYTES_PER_CLIENT or MAX_PENDING_P2P_PER_CLIENT.
    pending_dropped,
    /// Messages that were not retained because MAX_RETAINED_MESSAGES, MAX_RETAINED_BYTES or MAX_RETAINED_PER_CLIENT was
    /// reached.
    retained_refused,
    /// Persistent subscriptions removed because their client did not return within SESSION_EXPIRY_SECONDS.
    subscriptions_expired,
    /// Subscriptions ended because they were not allowed any more when they were validated again.
    subscriptions_withdrawn,
    /// Sessions that were closed because their clients were not allowed any more, and `conn` refused because the client id
    /// belongs to another user.
    sessions_refused,
    /// Requests answered SERVER_ERROR because a validator failed, panicked or took too long.
    validator_failures,
    /// Stored QoS 1 messages for which a `StoredNotifier` was not called, because it was too slow.
    stored_notices_dropped,
    /// Batches of pushes that did not reach other nodes, because the connection to Redis was down or too slow. Other nodes
    /// read QoS 1 pushes of persistent subscriptions from the store.
    bus_dropped,
    /// Messages received from Redis that were not from a node of this cluster and version.
    bus_refused,
    /// Store operations that failed.
    store_failures,
}

impl Counters {
    /// Counters with what the admin listener shows.
    pub(crate) fn measuring() -> Self {
        Self { measures: Some(Box::default()), ..Self::default() }
    }

    /// What only the admin listener shows. Nothing is measured, and no clock is read for it, if this is `None`.
    pub(crate) fn measures(&self) -> Option<&Measures> {
        self.measures.as_deref()
    }
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
