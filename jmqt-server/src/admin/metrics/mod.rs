//! `/metrics`: what Prometheus collects.
//!
//! Collecting costs the server nothing that grows with its messages: counters are read, and at most once a second all sessions are
//! looked at, in the thread of the listener. What the database has to count is counted at most once a minute, in the background.

mod process;
mod text;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap};

use super::answer::{Answer, answer as plain_answer};
use super::{Operator, labels};
use crate::connection::Protocol;
use crate::counters::{CountersSnapshot, Measures};
use crate::hub::Hub;
use crate::store::StoredTotals;
use process::Process;
use text::{Format, Text, Unit};

/// A text that is not older is sent again.
const FRESH: Duration = Duration::from_secs(1);
/// How often the database counts, while somebody collects.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// The time limit for that.
const COUNT_LIMIT: Duration = Duration::from_secs(30);
/// How often a message is sent around the bus, while somebody collects.
const ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(10);
const ROUND_TRIP_LIMIT: Duration = Duration::from_secs(5);

/// What was collected last.
#[derive(Default)]
pub(super) struct Metrics {
    texts: Mutex<Vec<(Format, Instant, String)>>,
    stored: Background<StoredTotals>,
    round_trip: Background<Duration>,
}

/// A value that takes time. It is measured in the background, at most once per interval.
struct Background<T>(Mutex<State<T>>);

struct State<T> {
    begun: Option<Instant>,
    value: Option<T>,
}

impl<T> Default for Background<T> {
    fn default() -> Self {
        Self(Mutex::new(State { begun: None, value: None }))
    }
}

impl<T: Copy> Background<T> {
    /// The last value; `true` if the caller has to measure it again.
    fn get(&self, interval: Duration) -> (Option<T>, bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state.begun.is_none_or(|begun| begun.elapsed() >= interval);
        if is_due {
            state.begun = Some(Instant::now());
        }
        (state.value, is_due)
    }

    fn set(&self, value: Option<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value = value;
    }
}

/// Answers `GET /metrics`.
pub(super) async fn answer(operator: &Arc<Operator>, headers: &HeaderMap) -> Answer {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let fresh = {
        let mut texts = operator.metrics.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.retain(|(_, at, _)| at.elapsed() < FRESH);
        texts.iter().find(|(of, ..)| *of == format).map(|(.., text)| text.clone())
    };
    let text = match fresh {
        Some(text) => text,
        None => {
            let text = collect(operator, format).await;
            let mut texts = operator.metrics.texts.lock().unwrap_or_else(PoisonError::into_inner);
            texts.retain(|(of, ..)| *of != format);
            texts.push((format, Instant::now(), text.clone()));
            text
        }
    };
    plain_answer(StatusCode::OK, format.content_type(), text)
}

async fn collect(operator: &Arc<Operator>, format: Format) -> String {
    let hub = &operator.shared.hub;
    let counters = hub.counters.snapshot();
    let mut text = Text::new(format);
    text.gauge("jmqt_build_info", "1, with the version of the server.")
        .value(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let is_ready = hub.trouble().is_none() && !operator.shared.http.is_unready();
    text.gauge("jmqt_ready", "1 if clients should use this server.").value(&[], u8::from(is_ready));
    connections(&mut text, hub, &counters);
    sessions(&mut text, hub);
    if let Some(measures) = hub.counters.measures() {
        packets(&mut text, measures);
        histograms(&mut text, measures);
    }
    messages(&mut text, &counters);
    store(&mut text, operator);
    cluster(&mut text, operator);
    others(&mut text, &counters);
    process_metrics(&mut text);
    text.finish()
}

fn connections(text: &mut Text, hub: &Hub, counters: &CountersSnapshot) {
    let open = counters.connections_accepted.saturating_sub(counters.connections_closed);
    text.gauge("jmqt_connections", "Open connections, with or without a session.").value(&[], open);
    if let Some(measures) = hub.counters.measures() {
        text.counter("jmqt_connections_accepted_total", "Connections accepted, by listener.");
        for (protocol, count) in measures.all_accepted() {
            text.value(&labels(protocol), count);
        }
        text.counter(
            "jmqt_connections_closed_total",
            "Connections that have ended after the handshake, by reason.",
        );
        for (reason, count) in measures.all_closed() {
            text.value(&[("reason", reason)], count);
        }
    }
    let handshakes = counters.tls_handshakes_failed.saturating_sub(counters.client_certificates_refused);
    text.counter("jmqt_connections_refused_total", "Connections refused, by reason.");
    for (reason, count) in [
        ("limit", counters.connections_refused),
        ("limit_of_address", counters.connections_refused_by_address),
        ("accept_failed", counters.accepts_failed),
        ("tls_handshake", handshakes),
        ("client_certificate", counters.client_certificates_refused),
        ("proxy_header", counters.proxy_headers_refused),
        ("origin", counters.origins_refused),
        ("wrong_port", counters.wrong_ports),
    ] {
        text.value(&[("reason", reason)], count);
    }
}

/// What is counted by looking at every session.
fn sessions(text: &mut Text, hub: &Hub) {
    let mut by_protocol = Protocol::ALL.map(|protocol| (protocol, 0_u64));
    let (mut queued, mut in_flight, mut full) = (0, 0, 0_u64);
    for (_, session) in hub.connections.sessions() {
        if let Some((_, count)) = by_protocol.iter_mut().find(|(of, _)| *of == session.info.protocol) {
            *count += 1;
        }
        let load = session.outbox.load();
        queued += load.queued_bytes;
        in_flight += load.in_flight;
        full += u64::from(load.is_window_full);
    }
    text.gauge("jmqt_sessions", "Sessions on this node.");
    for (protocol, count) in by_protocol {
        text.value(&labels(protocol), count);
    }
    let (groups, shares) = hub.subscribers.groups.counts();
    text.gauge("jmqt_subscriptions", "Subscriptions of connected clients on this node.")
        .value(&[("kind", "channel")], hub.subscribers.channels.subscriptions().saturating_sub(groups))
        .value(&[("kind", "filter")], hub.subscribers.filters.len())
        .value(&[("kind", "shared")], shares);
    text.gauge("jmqt_outbound_queued_bytes", "Bytes that wait for clients to read them.").value(&[], queued);
    text.gauge("jmqt_in_flight_messages", "QoS 1 and 2 pushes that clients have not acknowledged.")
        .value(&[], in_flight);
    text.gauge(
        "jmqt_sessions_with_full_window",
        "Sessions that must acknowledge before they receive more QoS 1 pushes.",
    )
    .value(&[], full);
}

fn packets(text: &mut Text, measures: &Measures) {
    text.counter("jmqt_packets_received_total", "Packets received, by protocol and type.");
    for (protocol, kind, count) in measures.all_packets() {
        text.value(&[("protocol", protocol), ("type", kind)], count);
    }
    text.counter(
        "jmqt_packets_refused_total",
        "Packets answered with a status (JMQT) or reason code (MQTT) that refuses. 255: any above 254.",
    );
    for (protocol, kind, status, count) in measures.all_refused() {
        text.value(&[("protocol", protocol), ("type", kind), ("status", &status.to_string())], count);
    }
}

fn histograms(text: &mut Text, measures: &Measures) {
    text.histogram(
        "jmqt_validator_duration_seconds",
        "How long validators took. A pub validator that answers at once is not measured.",
    );
    for (validator, outcome, times) in measures.all_asked() {
        text.buckets(&[("validator", validator), ("outcome", outcome)], Unit::Microseconds, times);
    }
    text.histogram("jmqt_commit_duration_seconds", "How long the store took to commit a batch.").buckets(
        &[],
        Unit::Microseconds,
        &measures.commits,
    );
    text.histogram("jmqt_commit_batch_operations", "The operations of each batch that was committed.")
        .buckets(&[], Unit::One, &measures.commit_sizes);
    text.histogram(
        "jmqt_fan_out_duration_seconds",
        "How long it took to offer messages to 64 subscribers or more.",
    )
    .buckets(&[], Unit::Microseconds, &measures.fan_outs);
}

fn messages(text: &mut Text, counters: &CountersSnapshot) {
    text.counter("jmqt_received_bytes_total", "Bytes read from connections, without TLS and handshakes.")
        .value(&[], counters.bytes_received);
    text.counter("jmqt_sent_bytes_total", "Bytes written to connections, without TLS and handshakes.")
        .value(&[], counters.bytes_sent);
    text.counter("jmqt_messages_published_total", "Messages published by clients and by the application.")
        .value(&[], counters.messages_published);
    text.counter("jmqt_messages_delivered_total", "Pushes added to the queues of clients.")
        .value(&[], counters.pushes_sent);
    text.counter("jmqt_messages_redelivered_total", "QoS 1 pushes sent again after a reconnect.")
        .value(&[], counters.redeliveries);
    text.counter("jmqt_messages_dropped_total", "Messages dropped, by reason.")
        .value(&[("reason", "outbound_queue_full")], counters.pushes_dropped)
        .value(&[("reason", "pending_limit")], counters.pending_dropped);
}

fn store(text: &mut Text, operator: &Arc<Operator>) {
    let hub = &operator.shared.hub;
    text.gauge("jmqt_commit_queue_operations", "Operations that wait for the store.")
        .value(&[], hub.commits.waiting());
    if let Some(bytes) = hub.operators.bytes_on_disk() {
        text.gauge("jmqt_store_bytes", "The size of the files of SQLite.").value(&[], bytes);
    }
    let (stored, is_due) = operator.metrics.stored.get(COUNT_INTERVAL);
    if is_due {
        let (operator, hub) = (Arc::clone(operator), Arc::clone(hub));
        tokio::spawn(async move {
            let counted = operator.on_server(COUNT_LIMIT, async move { hub.stored_totals().await }).await;
            operator.metrics.stored.set(counted.flatten());
        });
    }
    if let Some(StoredTotals { retained, messages, absent_clients }) = stored {
        text.gauge(
            "jmqt_stored_messages",
            "Messages that wait in the database for clients, counted once a minute.",
        )
        .value(&[], messages);
        text.gauge("jmqt_retained_messages", "Channels with a retained message, counted once a minute.")
            .value(&[], retained);
        text.gauge(
            "jmqt_absent_clients",
            "Clients that are remembered and not connected, counted once a minute.",
        )
        .value(&[], absent_clients);
    }
}

fn cluster(text: &mut Text, operator: &Arc<Operator>) {
    let Some(cluster) = &operator.shared.hub.cluster else { return };
    text.gauge("jmqt_bus_up", "1 if this node is connected to Redis.")
        .value(&[], u8::from(cluster.is_linked()));
    let others = cluster.others();
    let here = others.iter().filter(|(_, is_here)| *is_here).count();
    text.gauge("jmqt_cluster_nodes", "The nodes of the cluster, with this one.")
        .value(&[("state", "present")], here + 1)
        .value(&[("state", "silent")], others.len() - here);
    let (round_trip, is_due) = operator.metrics.round_trip.get(ROUND_TRIP_INTERVAL);
    if is_due {
        let (operator, cluster) = (Arc::clone(operator), Arc::clone(cluster));
        tokio::spawn(async move {
            let measured = operator.on_server(ROUND_TRIP_LIMIT, async move { cluster.round_trip().await });
            let measured = measured.await.flatten();
            operator.metrics.round_trip.set(measured);
        });
    }
    if let Some(round_trip) = round_trip {
        text.gauge(
            "jmqt_bus_round_trip_seconds",
            "How long a message to all nodes took to come back, of late.",
        )
        .value(&[], round_trip.as_secs_f64());
    }
}

/// The counters that are no part of another metric.
fn others(text: &mut Text, counters: &CountersSnapshot) {
    const SHOWN: [&str; 16] = [
        "connections_accepted",
        "connections_closed",
        "connections_refused",
        "connections_refused_by_address",
        "accepts_failed",
        "tls_handshakes_failed",
        "client_certificates_refused",
        "proxy_headers_refused",
        "origins_refused",
        "wrong_ports",
        "bytes_received",
        "bytes_sent",
        "messages_published",
        "pushes_sent",
        "pushes_dropped",
        "pending_dropped",
    ];
    for (name, metric, help, count) in counters.each() {
        if !SHOWN.contains(&name) && !matches!(name, "redeliveries" | "packets_received") {
            text.counter(metric, help).value(&[], count);
        }
    }
}

fn process_metrics(text: &mut Text) {
    let Some(process) = Process::read() else { return };
    text.counter("process_cpu_seconds_total", "CPU time of this process, of the user and of the system.")
        .value(&[], process.cpu_seconds);
    text.gauge("process_resident_memory_bytes", "Resident memory.").value(&[], process.resident_bytes);
    text.gauge("process_virtual_memory_bytes", "Virtual memory.").value(&[], process.virtual_bytes);
    text.gauge("process_threads", "Threads.").value(&[], process.threads);
    text.gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")
        .value(&[], process.start_seconds);
    if let Some(open) = process.open_files {
        text.gauge("process_open_fds", "Open files and sockets.").value(&[], open);
    }
    if let Some(most) = process.most_files {
        text.gauge("process_max_fds", "The limit of open files and sockets.").value(&[], most);
    }
}
