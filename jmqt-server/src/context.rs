//! The state that all connections of a server share: the hub, the application, the limits.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::budget::Budget;
use crate::config::Config;
use crate::handle::ServerHandle;
use crate::hub::Hub;
use crate::system_topics::SystemTopics;
use crate::transport::HttpContext;
use crate::validators::Validators;

/// The most refused clients whose input is read for a moment.
const TURNED_AWAY: usize = 64;

/// The state that all connections of a server share.
pub(crate) struct Shared {
    pub(crate) validators: Validators,
    pub(crate) hub: Arc<Hub>,
    pub(crate) handle: ServerHandle,
    pub(crate) limits: Limits,
    pub(crate) idle: IdleLimits,
    /// Incomplete packets of sessions.
    pub(crate) partial_packets: Arc<Budget>,
    /// Incomplete packets of connections without a session.
    pub(crate) preconn_packets: Arc<Budget>,
    /// The settings for answers to HTTP requests.
    pub(crate) http: Arc<HttpContext>,
    /// The limits of connections, and the open connections.
    pub(crate) admission: Arc<Admission>,
    /// What MQTT clients can watch of this node.
    pub(crate) system_topics: SystemTopics,
    /// Permits for TLS handshakes that are computed at a time.
    pub(crate) handshakes: Semaphore,
    /// Permits for long packets that are decoded at a time: fewer than threads, so that one thread is left for other work.
    pub(crate) long_packets: Arc<Semaphore>,
    /// Permits for refused clients that still read the reason.
    pub(crate) turned_away: Arc<Semaphore>,
    /// Every task that serves a connection.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when an essential task has failed: the server stops.
    pub(crate) failed: CancellationToken,
}

/// The settings of sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) packet_bytes: usize,
    pub(crate) preconn_packet_bytes: usize,
    pub(crate) max_inflight: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) subscriptions: usize,
    pub(crate) persistent_subscriptions: usize,
    pub(crate) timeout_seconds: u32,
    pub(crate) validator_timeout: Duration,
    pub(crate) drain: Duration,
    pub(crate) takeovers_per_second: Option<u32>,
    /// MAX_PACKETS_PER_SECOND_PER_CLIENT and MAX_BYTES_PER_SECOND_PER_CLIENT.
    pub(crate) packets_per_second: Option<u32>,
    pub(crate) bytes_per_second: Option<u32>,
    /// SESSION_EXPIRY_SECONDS; the largest number if sessions never expire.
    pub(crate) session_expiry_seconds: u32,
}

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdleLimits {
    pub(crate) timeout: Duration,
    pub(crate) slow_consumer: Duration,
}

impl Limits {
    fn new(config: &Config) -> Self {
        Self {
            packet_bytes: config.max_packet_bytes,
            preconn_packet_bytes: config.max_preconn_packet_bytes.min(config.max_packet_bytes),
            max_inflight: config.max_inflight,
            receive_maximum: config.mqtt_receive_maximum,
            subscriptions: config.max_subscriptions_per_client,
            persistent_subscriptions: config.max_persistent_subscriptions_per_client,
            timeout_seconds: u32::try_from(config.timeout.as_secs()).unwrap_or(u32::MAX),
            validator_timeout: config.validator_timeout,
            drain: config.drain,
            takeovers_per_second: config.max_takeovers_per_second,
            packets_per_second: config.max_packets_per_second_per_client,
            bytes_per_second: config.max_bytes_per_second_per_client,
            session_expiry_seconds: config
                .session_expiry
                .map_or(u32::MAX, |expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        }
    }
}

impl Shared {
    pub(crate) fn new(
        config: &Config,
        validators: Validators,
        hub: Arc<Hub>,
        handle: ServerHandle,
        http: HttpContext,
    ) -> Self {
        Self {
            validators,
            admission: Arc::new(Admission::new(config, Arc::clone(&hub.counters))),
            hub,
            handle,
            limits: Limits::new(config),
            idle: IdleLimits { timeout: config.timeout, slow_consumer: config.slow_consumer },
            partial_packets: Arc::new(Budget::new(config.max_total_partial_packet_bytes)),
            preconn_packets: Arc::new(Budget::new(config.max_total_preconn_bytes)),
            http: Arc::new(http),
            system_topics: SystemTopics::new(config.sys_interval),
            long_packets: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1),
            )),
            handshakes: Semaphore::new(2 * std::thread::available_parallelism().map_or(1, NonZero::get)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            tasks: TaskTracker::new(),
            failed: CancellationToken::new(),
        }
    }

    /// The signal to close and reopen listeners; `None`: they stay open.
    pub(crate) fn gate(&self) -> Option<watch::Receiver<bool>> {
        self.hub.cluster.as_ref().map(|cluster| cluster.lets_in())
    }
}
