//! The regular work on the store: cursors, sessions, expired clients.
//!
//! One task collects the work that arrives while it writes, so that ten thousand sessions that end together need few
//! transactions. Messages do not pass through this file.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use jmqt_core::ClientId;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Hub, exchanges};
use crate::connection::ConnectionInfo;
use crate::counters::Counters;
use crate::log_limit::log_limited;
use crate::outbox::{Moved, OutboxContext};
use crate::store::{
    ChannelKey, Cursor, CursorUpdate, Dropped, Due, PendingLimits, Sent, SessionRow, Store, StoreError,
    Swept, Unanswered, store_failed,
};

/// The interval for writing moved cursors and new sessions (2.13: within a second).
const FLUSH_EVERY: Duration = Duration::from_millis(300);
/// The interval for trimming logs.
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// The interval for counting pending messages.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// The time limit for one sweep of pending messages; the next one continues there.
const SWEEP_FOR: Duration = Duration::from_millis(500);
/// The interval for looking for expired clients; shorter if SESSION_EXPIRY_SECONDS is short.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
/// The shortest such interval.
const EXPIRE_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// A clock that gains or loses more than this between two checks has been set.
const CLOCK_JUMP: Duration = Duration::from_secs(10);
/// The time without expiry after such a jump, if SESSION_EXPIRY_SECONDS is 0.
const GRACE: Duration = Duration::from_secs(3600);
/// The time limit for an ending session to wait for its cursors.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause of a cursor that cannot be saved.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause of a cursor that cannot be saved.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The number of cursors that may be set aside at a time. If more fail, single cursors are not the cause.
const MOST_SET_ASIDE: usize = 64;

/// The limits for what the store keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JanitorLimits {
    /// SESSION_EXPIRY_SECONDS; `None` never.
    pub(crate) session_expiry: Option<Duration>,
    /// The limit for one client's pending messages; `None`: unlimited.
    pub(crate) pending: Option<PendingLimits>,
}

/// Compares the system clock with the elapsed time. After a jump, the clock does not tell how long clients were
/// absent.
#[derive(Debug, Default)]
struct ClockWatch {
    last: Option<(SystemTime, Instant)>,
    /// No client expires before this time.
    grace_until: Option<Instant>,
}

impl ClockWatch {
    /// Returns `true` if clients may expire now. After a jump they may not for one more period, in which they can
    /// return.
    fn may_expire(&mut self, clock: SystemTime, now: Instant, expiry: Duration) -> bool {
        if let Some((clock_before, before)) = self.last.replace((clock, now)) {
            let passed = now.saturating_duration_since(before);
            let expected = clock_before + passed;
            let jump = match clock.duration_since(expected) {
                Ok(ahead) => ahead,
                Err(behind) => behind.duration(),
            };
            if jump > CLOCK_JUMP {
                tracing::warn!(
                    target: "jmqt::store", seconds = jump.as_secs(), forward = clock > expected,
                    "the system clock has jumped: expiring no absent clients for SESSION_EXPIRY_SECONDS, or for an hour if that is 0"
                );
                self.grace_until = Some(now + expiry);
            }
        }
        self.grace_until.is_none_or(|until| now >= until)
    }
}

/// The pending regular work on the store.
pub(crate) struct Janitor {
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    clock: Mutex<ClockWatch>,
    /// The name of this process in the store.
    pub(crate) node: String,
    limits: JanitorLimits,
    generations: AtomicU64,
    chores: Mutex<Chores>,
    urgent: Notify,
    /// Ensures that a session's row is written before it is removed.
    writing: tokio::sync::Mutex<()>,
}

/// The key of a cursor.
type Place = (ChannelKey, ClientId);

#[derive(Default)]
struct Chores {
    opened: HashMap<u64, SessionRow>,
    closed: Vec<(ClientId, u64)>,
    /// The same for sessions whose messages without an answer are not recorded.
    closed_unrecorded: Vec<(ClientId, u64)>,
    /// Sessions whose wills are to be deleted, before the sessions are closed.
    discarded_wills: Vec<(ClientId, u64)>,
    /// The same for sessions whose wills wait for the end of their delay, with the shortest delay in seconds.
    ended_wills: Vec<(u32, (ClientId, u64))>,
    cursors: HashMap<Place, Cursor>,
    /// Records of exchanges to delete after the cursors are written.
    complete: Vec<Sent>,
    /// Cursors that cannot be saved because of damaged data, each with the end and the length of its pause.
    set_aside: HashMap<Place, (Instant, Duration)>,
    /// The tasks that wait until the cursors above are written.
    waiting: Vec<oneshot::Sender<()>>,
    /// Channels with acknowledged messages that can be deleted.
    to_trim: HashSet<ChannelKey>,
}

impl Janitor {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        node: String,
        limits: JanitorLimits,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            store,
            counters,
            clock: Mutex::default(),
            node,
            limits,
            generations: AtomicU64::new(1),
            chores: Mutex::default(),
            urgent: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn chores(&self) -> MutexGuard<'_, Chores> {
        self.chores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next generation of a single server. It is higher than those of all earlier sessions.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// Records a new session. Its row is written within a second; the caller does not wait.
    pub(crate) fn session_opened(&self, client: &ClientId, generation: u64, info: ConnectionInfo) {
        let row = SessionRow {
            client: client.clone(),
            generation,
            node: self.node.clone(),
            protocol: info.protocol.as_str().to_owned(),
            address: info.remote.to_string(),
            since: SystemTime::now(),
        };
        self.chores().opened.insert(generation, row);
    }

    /// Deletes the row of a session that did not begin, or that has ended, and records that its client is not connected.
    /// No notifier runs.
    pub(crate) fn forget_session(&self, client: &ClientId, generation: u64) {
        self.chores().closed.push((client.clone(), generation));
        self.urgent.notify_one();
    }

    /// Deletes the session after its close notifier has run, at once, so that a crash does not repeat the notifier.
    /// For clients with stored subscriptions the time is recorded.
    pub(crate) async fn session_closed(
        &self,
        client: &ClientId,
        generation: u64,
        is_known: bool,
        unanswered: Unanswered,
    ) {
        let written = {
            let mut chores = self.chores();
            if chores.opened.remove(&generation).is_some() && !is_known {
                return; // the store does not have it
            }
            chores.closed_as(unanswered).push((client.clone(), generation));
            chores.wait()
        };
        self.urgent.notify_one();
        // Bounded, because the session must not hang if the store does.
        drop(tokio::time::timeout(SAVE_TIMEOUT, written).await);
    }

    /// Deletes the will of a session, also if the future is dropped: its caller may be called off while it waits.
    pub(crate) fn delete_will(
        &self,
        client: &ClientId,
        generation: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let written = {
            let mut chores = self.chores();
            chores.discarded_wills.push((client.clone(), generation));
            chores.wait()
        };
        self.urgent.notify_one();
        // Bounded, because the session must not hang if the store does.
        async move { drop(tokio::time::timeout(SAVE_TIMEOUT, written).await) }
    }

    /// Begins the delay of the will of a session that has ended: see [`Store::end_wills`]. Many connections may be lost at
    /// once, and one transaction is enough for them.
    pub(crate) async fn end_will(&self, client: &ClientId, generation: u64, at_least: u32) {
        let written = {
            let mut chores = self.chores();
            chores.ended_wills.push((at_least, (client.clone(), generation)));
            chores.wait()
        };
        self.urgent.notify_one();
        drop(tokio::time::timeout(SAVE_TIMEOUT, written).await);
    }

    /// Deletes the will of a session that did not begin, without waiting.
    pub(crate) fn forget_will(&self, client: &ClientId, generation: u64) {
        self.chores().discarded_wills.push((client.clone(), generation));
        self.urgent.notify_one();
    }

    /// Writes the cursors of an ending session, and deletes its records, before the client's next session reads them.
    pub(crate) async fn save(&self, moved: Moved) {
        let written = {
            let mut chores = self.chores();
            chores.add(moved);
            chores.wait()
        };
        self.urgent.notify_one();
        drop(tokio::time::timeout(SAVE_TIMEOUT, written).await);
    }

    /// Runs until it is told to stop, and then writes what is left.
    pub(crate) async fn run(&self, hub: Arc<Hub>, stop: CancellationToken) {
        // In parallel: trimming may take long, and cursors must be on disk within a second.
        tokio::join!(
            self.write_until(&hub, &stop),
            self.tidy_until(&hub, &stop),
            exchanges::record_until(&hub.commits, &hub.context, &stop),
            hub.shares.serve(&stop),
            hub.subscribers.groups.tell_until(&hub.context, &*hub.bus, &stop)
        );
        self.trim().await;
    }

    async fn write_until(&self, hub: &Arc<Hub>, stop: &CancellationToken) {
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.urgent.notified() => self.write_urgent().await,
                _ = flush.tick() => {
                    hub.resumes.retry_parked();
                    self.gather_moved_cursors(&hub.context);
                    self.write_opened().await;
                    self.write_urgent().await;
                }
            }
        }
        self.gather_moved_cursors(&hub.context);
        self.write_opened().await;
        self.write_urgent().await;
    }

    async fn tidy_until(&self, hub: &Arc<Hub>, stop: &CancellationToken) {
        let start = Instant::now();
        let mut trim = tokio::time::interval_at(start + TRIM_EVERY, TRIM_EVERY);
        let mut sweep = tokio::time::interval_at(start + SWEEP_EVERY, SWEEP_EVERY);
        let expire_every = self.limits.session_expiry.unwrap_or(EXPIRE_EVERY);
        let expire_every = expire_every.clamp(EXPIRE_AT_MOST_EVERY, EXPIRE_EVERY);
        let mut expire = tokio::time::interval_at(start + expire_every, expire_every);
        let mut swept_up_to = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = trim.tick() => self.trim().await,
                _ = sweep.tick() => swept_up_to = self.sweep(hub, swept_up_to).await,
                _ = expire.tick() => {
                    self.expire(hub).await;
                    self.forget_publishers(hub).await;
                    self.delete_expired_retained(hub).await;
                }
            }
        }
    }

    fn gather_moved_cursors(&self, context: &OutboxContext) {
        let moved = {
            let mut list = context.moved_cursors.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *list)
        };
        for outbox in moved {
            let moved = outbox.take_moved();
            self.chores().add(moved);
        }
    }

    async fn write_opened(&self) {
        let _turn = self.writing.lock().await;
        // The whole table is taken, so that its memory is freed after a burst.
        let opened = std::mem::take(&mut self.chores().opened);
        let rows: Vec<SessionRow> = opened.into_values().collect();
        if !rows.is_empty()
            && let Err(error) = self.store.sessions_opened(&rows).await
        {
            self.failed("cannot save new sessions", &error);
            let mut chores = self.chores();
            let closed = chores.closed.iter().chain(&chores.closed_unrecorded);
            let closed: HashSet<u64> = closed.map(|(_, generation)| *generation).collect();
            let open = rows.into_iter().filter(|row| !closed.contains(&row.generation));
            chores.opened.extend(open.map(|row| (row.generation, row)));
        }
    }

    async fn write_urgent(&self) {
        let _turn = self.writing.lock().await;
        let (cursors, complete, closed, closed_unrecorded, discarded, ended, waiting) = {
            let mut chores = self.chores();
            let taken = (
                chores.take_cursors(Instant::now()),
                std::mem::take(&mut chores.complete),
                std::mem::take(&mut chores.closed),
                std::mem::take(&mut chores.closed_unrecorded),
                std::mem::take(&mut chores.discarded_wills),
                std::mem::take(&mut chores.ended_wills),
                std::mem::take(&mut chores.waiting),
            );
            let keys = taken.0.keys().map(|(key, _)| *key);
            chores.to_trim.extend(keys);
            taken
        };
        let cursors: Vec<_> =
            cursors.into_iter().map(|((key, client), cursor)| CursorUpdate { client, key, cursor }).collect();
        if !self.write_cursors(&cursors).await {
            self.chores().complete.extend(complete);
        } else if !complete.is_empty()
            && let Err(error) = self.store.forget_sent(&complete).await
        {
            self.failed("cannot delete records of messages; retrying", &error);
            self.chores().complete.extend(complete);
        }
        self.write_ended_wills(ended).await;
        if !discarded.is_empty()
            && let Err(error) = self.store.delete_wills(&discarded, &self.node).await
        {
            self.failed("cannot delete wills", &error);
            // The wills would be published if the sessions were closed now.
            let mut chores = self.chores();
            chores.discarded_wills.extend(discarded);
            chores.closed.extend(closed);
            chores.closed_unrecorded.extend(closed_unrecorded);
        } else {
            self.write_closed(closed, Unanswered::Recorded).await;
            self.write_closed(closed_unrecorded, Unanswered::Unknown).await;
        }
        for waiting in waiting {
            // The waiting task may have given up.
            let _ = waiting.send(());
        }
    }

    async fn write_closed(&self, closed: Vec<(ClientId, u64)>, unanswered: Unanswered) {
        if !closed.is_empty()
            && let Err(error) = self.store.sessions_closed(&closed, &self.node, unanswered).await
        {
            self.failed("cannot save ended sessions", &error);
            self.chores().closed_as(unanswered).extend(closed);
        }
    }

    /// Begins the delays of wills. If that fails, they begin when the ends of the sessions are recorded.
    async fn write_ended_wills(&self, mut ended: Vec<(u32, (ClientId, u64))>) {
        ended.sort_unstable();
        for alike in ended.chunk_by(|(one, _), (other, _)| one == other) {
            let sessions: Vec<_> = alike.iter().map(|(_, session)| session.clone()).collect();
            if let Err(error) = self.store.end_wills(&sessions, &self.node, alike[0].0).await {
                self.failed("cannot begin the delays of wills", &error);
            }
        }
    }

    /// Saves cursors in one transaction. If damaged data makes that fail, it saves them in halves, so that one bad
    /// cursor does not affect others. The bad one is retried less and less often. Returns `false` if others are left.
    async fn write_cursors(&self, cursors: &[CursorUpdate]) -> bool {
        let mut parts = vec![cursors];
        let mut set_aside = 0;
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let Err(error) = self.store.save_cursors(part).await else {
                self.chores().saved(part);
                continue;
            };
            match part {
                [one] if error.is_of_data() => {
                    set_aside += 1;
                    self.failed("cannot save an acknowledgement; retrying", &error);
                    self.chores().set_aside(one, Instant::now());
                }
                _ if error.is_of_data() && set_aside < MOST_SET_ASIDE => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([left, right]);
                }
                _ => {
                    self.failed("cannot save acknowledgements; retrying", &error);
                    parts.push(part);
                    parts.iter().for_each(|part| self.chores().keep(part));
                    return false;
                }
            }
        }
        true
    }

    async fn trim(&self) {
        let to_trim = std::mem::take(&mut self.chores().to_trim);
        let keys: Vec<ChannelKey> = to_trim.into_iter().collect();
        if let Err(error) = self.store.trim(&keys).await {
            self.failed("cannot trim channel logs", &error);
            self.chores().to_trim.extend(keys);
        }
    }

    /// Returns the client after which to continue if there are more, also after a temporary error. An error caused by
    /// damaged data starts the round again, because the clients after it cannot be reached.
    async fn sweep(&self, hub: &Arc<Hub>, mut after: Option<ClientId>) -> Option<ClientId> {
        let limits = self.limits.pending.filter(|_| hub.is_first())?;
        let until = Instant::now() + SWEEP_FOR;
        loop {
            let Swept { dropped, more_after } = match self.store.limit_pending(limits, after.as_ref()).await {
                Ok(swept) => swept,
                Err(error) => {
                    self.failed("cannot count pending messages", &error);
                    return after.filter(|_| !error.is_of_data());
                }
            };
            dropped.into_iter().for_each(|dropped| self.gave_up(hub, &dropped));
            after = more_after;
            if after.is_none() || Instant::now() > until {
                return after;
            }
        }
    }

    fn gave_up(&self, hub: &Arc<Hub>, dropped: &Dropped) {
        log_limited!(
            warn, target: "jmqt::store", client = %dropped.client, channel = %dropped.channel,
            messages = dropped.messages,
            "dropped pending messages: the client has more than MAX_PENDING_PER_CLIENT, \
             MAX_PENDING_BYTES_PER_CLIENT or MAX_PENDING_P2P_PER_CLIENT allows"
        );
        hub.counters.pending_dropped.add(dropped.messages);
        self.chores().to_trim.insert(dropped.key);
        let group = || hub.subscribers.groups.of_owner(&dropped.client);
        if let Some(outbox) = hub.connections.outbox(dropped.client.as_str()).or_else(group) {
            outbox.give_up(dropped.key, dropped.up_to);
            hub.resumes.begin(&outbox);
        }
    }

    async fn expire(&self, hub: &Hub) {
        if !hub.is_first() {
            return;
        }
        let now = SystemTime::now();
        let expiry = self.limits.session_expiry;
        let may_expire = {
            let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
            clock.may_expire(now, Instant::now(), expiry.unwrap_or(GRACE))
        };
        if !may_expire {
            return;
        }
        let due = Due { seen_before: expiry.and_then(|expiry| now.checked_sub(expiry)), now };
        // Held until they are deleted: a client that reconnects meanwhile waits, and then has no subscriptions.
        let mut held = Vec::new();
        let mut is_away = |client: &ClientId| {
            let claim = hub.connections.claim_absent(client);
            let is_absent = claim.is_some();
            held.extend(claim);
            is_absent
        };
        match self.store.expire(due, &mut is_away).await {
            Ok(expired) => {
                for expired in expired {
                    tracing::info!(
                        target: "jmqt::store", client = %expired.client,
                        subscriptions = expired.subscriptions, "removed the session of a client that was absent for too long"
                    );
                    hub.counters.subscriptions_expired.add(expired.subscriptions);
                }
            }
            Err(error) => self.failed("cannot look for expired clients", &error),
        }
    }

    /// Continues where the last call ended, for at most [`SWEEP_FOR`].
    async fn forget_publishers(&self, hub: &Hub) {
        if !hub.is_first() {
            return;
        }
        let until = Instant::now() + SWEEP_FOR;
        loop {
            match self.store.forget_publishers(SystemTime::now()).await {
                Ok(forgotten) if forgotten.is_round_complete || Instant::now() > until => return,
                Ok(_) => {}
                Err(error) => return self.failed("cannot remove silent publishers", &error),
            }
        }
    }

    /// Continues where the last call ended, for at most [`SWEEP_FOR`].
    async fn delete_expired_retained(&self, hub: &Hub) {
        if !hub.is_first() {
            return;
        }
        let until = Instant::now() + SWEEP_FOR;
        while Instant::now() < until {
            let now = SystemTime::now();
            match self.store.expired_retained(now).await {
                Ok(expired) if expired.is_empty() => return,
                Ok(expired) => {
                    let deleted = expired.into_iter().map(|channel| hub.retained.expire(channel, now));
                    if join_all(deleted).await.iter().any(Result::is_err) {
                        return; // it was logged
                    }
                }
                Err(error) => return self.failed("cannot look for expired retained messages", &error),
            }
        }
    }

    fn failed(&self, what: &'static str, error: &StoreError) {
        store_failed(&self.counters, what, error);
    }
}

/// Keeps the last, and therefore furthest, cursor of each place.
fn by_place(updates: Vec<CursorUpdate>) -> impl Iterator<Item = (Place, Cursor)> {
    updates.into_iter().map(|update| ((update.key, update.client), update.cursor))
}

impl Chores {
    /// The sessions that have ended, and whose messages without an answer are recorded, or not.
    fn closed_as(&mut self, unanswered: Unanswered) -> &mut Vec<(ClientId, u64)> {
        match unanswered {
            Unanswered::Recorded => &mut self.closed,
            Unanswered::Unknown => &mut self.closed_unrecorded,
        }
    }

    fn add(&mut self, moved: Moved) {
        self.cursors.extend(by_place(moved.cursors));
        self.complete.extend(moved.complete);
    }

    /// Takes the cursors to save now, without those that are paused.
    fn take_cursors(&mut self, now: Instant) -> HashMap<Place, Cursor> {
        if self.set_aside.is_empty() {
            return std::mem::take(&mut self.cursors);
        }
        let waits = |place: &Place| self.set_aside.get(place).is_some_and(|(until, _)| now < *until);
        self.cursors.extract_if(|place, _| !waits(place)).collect()
    }

    /// Records that these cursors are on disk.
    fn saved(&mut self, cursors: &[CursorUpdate]) {
        if !self.set_aside.is_empty() {
            for update in cursors {
                self.set_aside.remove(&(update.key, update.client.clone()));
            }
        }
    }

    /// Keeps these cursors for the next attempt.
    fn keep(&mut self, cursors: &[CursorUpdate]) {
        for (place, cursor) in by_place(cursors.to_vec()) {
            self.cursors.entry(place).or_insert(cursor); // a cursor that arrived meanwhile is newer
        }
    }

    /// Sets aside a cursor that cannot be saved, with a longer pause each time.
    fn set_aside(&mut self, update: &CursorUpdate, now: Instant) {
        self.keep(std::slice::from_ref(update));
        let place = (update.key, update.client.clone());
        let pause =
            self.set_aside.get(&place).map_or(SHORTEST_PAUSE, |(_, pause)| (*pause * 2).min(LONGEST_PAUSE));
        self.set_aside.insert(place, (now + pause, pause));
    }

    fn wait(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.push(sender);
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Double, Seq};

    #[tokio::test] // protocol.md 2.13
    async fn unsaved_cursors_are_kept_once_each_and_saved_later() {
        let saved = Arc::new(Mutex::new((0, Vec::new())));
        let save = Arc::clone(&saved);
        let save_cursors = move |updates: &[CursorUpdate]| {
            let mut saved = save.lock().unwrap();
            saved.0 += 1;
            if saved.0 <= 100 {
                return Err(StoreError::TimedOut(Duration::from_secs(10)));
            }
            saved.1.extend(updates.iter().map(|update| (update.key.0, update.cursor.acked.0)));
            Ok(())
        };
        let store = Arc::new(Double { save_cursors: Box::new(save_cursors), ..Double::default() });
        let limits = JanitorLimits { session_expiry: None, pending: None };
        let janitor = Janitor::new(store, "node".to_owned(), limits, Arc::default());
        let update = |key, acked| CursorUpdate {
            client: ClientId::parse("bob").unwrap(),
            key: ChannelKey(key),
            cursor: Cursor { acked: Seq(acked), beyond: Vec::new() },
        };
        for round in 1..=100 {
            janitor.chores().cursors.extend(by_place(vec![update(1, round), update(2, 5)]));
            janitor.write_urgent().await;
            assert_eq!(janitor.chores().cursors.len(), 2, "round {round}");
        }
        janitor.write_urgent().await;
        assert!(janitor.chores().cursors.is_empty());
        let mut written = saved.lock().unwrap().1.clone();
        written.sort_unstable();
        assert_eq!(written, [(1, 100), (2, 5)]);
        janitor.write_urgent().await;
        assert_eq!(saved.lock().unwrap().0, 101, "all cursors are saved");
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.13
    async fn a_cursor_that_cannot_be_saved_is_retried_less_often_and_delays_no_other() {
        let saved = Arc::new(Mutex::new((0, Vec::new())));
        let save = Arc::clone(&saved);
        let save_cursors = move |updates: &[CursorUpdate]| {
            let mut saved = save.lock().unwrap();
            if updates.iter().any(|update| update.key == ChannelKey(7)) {
                saved.0 += usize::from(updates.len() == 1);
                return Err(StoreError::Corrupt { what: "page" });
            }
            saved.1.extend(updates.iter().map(|update| update.key.0));
            Ok(())
        };
        let store = Arc::new(Double { save_cursors: Box::new(save_cursors), ..Double::default() });
        let limits = JanitorLimits { session_expiry: None, pending: None };
        let janitor = Janitor::new(store, "node".to_owned(), limits, Arc::default());
        let update = |key| CursorUpdate {
            client: ClientId::parse("bob").unwrap(),
            key: ChannelKey(key),
            cursor: Cursor { acked: Seq(1), beyond: Vec::new() },
        };
        janitor.chores().cursors.extend(by_place((1..=100).map(update).collect()));
        janitor.write_urgent().await;
        let mut written = std::mem::take(&mut saved.lock().unwrap().1);
        written.sort_unstable();
        assert_eq!(written, (1..=100).filter(|key| *key != 7).collect::<Vec<_>>());
        for _ in 0..2000 {
            janitor.write_urgent().await;
            tokio::time::advance(FLUSH_EVERY).await;
        }
        let tries = saved.lock().unwrap().0;
        assert!((10..=20).contains(&tries), "{tries} in ten minutes");
        assert!(saved.lock().unwrap().1.is_empty(), "nothing is saved twice");
        assert_eq!(janitor.chores().cursors.len(), 1, "the cursor is kept");
    }

    #[test]
    fn after_a_clock_jump_no_client_expires_for_one_period() {
        let (clock, now, expiry) = (SystemTime::now(), Instant::now(), Duration::from_secs(3600));
        let seconds = Duration::from_secs;
        let mut watch = ClockWatch::default();
        assert!(watch.may_expire(clock, now, expiry));
        assert!(watch.may_expire(clock + seconds(31), now + seconds(30), expiry));
        let ahead = clock + seconds(86_400);
        assert!(!watch.may_expire(ahead + seconds(60), now + seconds(60), expiry));
        assert!(!watch.may_expire(ahead + seconds(3600), now + seconds(3600), expiry));
        assert!(watch.may_expire(ahead + seconds(3660), now + seconds(3660), expiry));
        assert!(!watch.may_expire(clock + seconds(3690), now + seconds(3690), expiry), "the clock is back");
    }
}
