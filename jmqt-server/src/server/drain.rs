//! Closing the connections of a server that stops: sessions one by one, or all at once (protocol.md 2.22).

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Parting};
use crate::context::Shared;
use crate::outbox::Outbox;

/// Begins the stop of the server: no new sessions begin. Sessions are closed one by one over
/// `time`, if it is not zero.
pub(super) fn begin_to_stop(shared: &Shared, time: Duration) {
    let others_are_there = shared.hub.cluster.as_ref().is_some_and(|cluster| cluster.has_others());
    let connections = shared.admission.numbered_outboxes().len();
    shared.admission.begin_to_stop(Parting::new(connections, others_are_there, time));
}

pub(super) fn close_all(admission: &Admission) {
    for (number, outbox) in admission.numbered_outboxes() {
        admission.part(number, &outbox);
    }
}

/// Drains this node when it is asked to: closes the listeners, then the sessions, as at the stop of the server.
pub(super) async fn drain_when_asked(
    shared: Arc<Shared>,
    asked: CancellationToken,
    stop_listening: CancellationToken,
    time: Duration,
) {
    tokio::select! {
        () = asked.cancelled() => {}
        () = stop_listening.cancelled() => return, // the server stops
    }
    shared.http.set_unready(Some("drained"));
    stop_listening.cancel();
    begin_to_stop(&shared, time);
    if !time.is_zero() {
        drain_sessions(&shared, time).await;
    }
    close_all(&shared.admission);
}

/// Closes connections without a session at once, and sessions in even steps over `time`, the first at
/// once. A session that ends by itself does not change the schedule of the others.
pub(super) async fn drain_sessions(shared: &Shared, time: Duration) {
    let sessions = close_all_without_session(shared);
    tracing::info!(target: "jmqt::server", sessions = sessions.len(), over = ?time, "closing sessions one by one");
    let sessions = (0..).zip(sessions).collect();
    in_even_steps(time, sessions, |(number, outbox)| {
        if let Some(outbox) = Weak::upgrade(&outbox) {
            shared.admission.part(number, &outbox);
        }
    })
    .await;
}

/// Returns weak references to the sessions, so that a session that ends by itself is freed before its turn.
fn close_all_without_session(shared: &Shared) -> Vec<Weak<Outbox>> {
    let sessions = shared.hub.connections.outboxes();
    let with_session: HashSet<_> = sessions.iter().map(Arc::as_ptr).collect();
    for (number, outbox) in shared.admission.numbered_outboxes() {
        if !with_session.contains(&Arc::as_ptr(&outbox)) {
            shared.admission.part(number, &outbox);
        }
    }
    sessions.iter().map(Arc::downgrade).collect()
}

/// Calls a function with each item, the first at once, each next one a step later, so that the step of the
/// last item ends with `time`.
async fn in_even_steps<T>(time: Duration, items: Vec<T>, mut act: impl FnMut(T)) {
    let start = Instant::now();
    let step = time.as_secs_f64() / items.len().max(1) as f64;
    for (index, item) in items.into_iter().enumerate() {
        // Measured from the start, not from the previous item, so that delays do not add up.
        tokio::time::sleep_until(start + Duration::from_secs_f64(step * index as f64)).await;
        act(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn steps(time: Duration, count: u32) -> Vec<(u32, Duration)> {
        let start = Instant::now();
        let mut steps = Vec::new();
        in_even_steps(time, (0..count).collect(), |item| steps.push((item, start.elapsed()))).await;
        steps
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_items_in_two_seconds_are_one_every_tenth_of_a_second() {
        let expected: Vec<_> = (0..20).map(|item| (item, Duration::from_millis(100) * item)).collect();
        assert_eq!(steps(Duration::from_secs(2), 20).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn items_beyond_the_timer_resolution_go_in_groups_and_on_time() {
        let steps = steps(Duration::from_secs(1), 5000).await;
        assert_eq!(steps.len(), 5000);
        for (item, at) in steps {
            let due = Duration::from_secs(1) * item / 5000;
            assert!(at >= due && at <= due + Duration::from_millis(1), "{item} {at:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn zero_time_and_zero_items_do_not_wait() {
        assert_eq!(steps(Duration::ZERO, 3).await, [0, 1, 2].map(|item| (item, Duration::ZERO)));
        assert_eq!(steps(Duration::from_secs(1), 0).await, []);
    }
}
