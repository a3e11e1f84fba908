//! The connected clients. A client has at most one session (protocol.md 2.4).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jmqt_core::ClientId;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::connection::{CloseReason, ConnectionInfo};
use crate::disconnect::Disconnect;
use crate::name_map::NameMap;
use crate::outbox::Outbox;

/// The number of takeovers of one client in a burst. MAX_TAKEOVERS_PER_SECOND limits the average.
const TAKEOVER_BURST: u32 = 5;

/// The sessions of this node by client.
#[derive(Default)]
pub(crate) struct Connections {
    slots: Mutex<NameMap<ClientId, Slot>>,
}

#[derive(Default)]
struct Slot {
    session: Option<Registered>,
    /// Boxed, because it exists only while sessions begin and end, and after a takeover.
    change: Option<Box<Change>>,
}

#[derive(Default)]
struct Change {
    /// The generation of a session that is opening, and the token that calls it off.
    opening: Option<(u64, CancellationToken)>,
    /// Serializes the connections that want to become the client's session, in order of arrival.
    claims: Option<Arc<tokio::sync::Mutex<()>>>,
    /// Notified when the session has ended, including its close notifier, or will not begin.
    ended: Option<Arc<Notify>>,
    /// The time at which the takeovers so far would be spread evenly. Kept while the client is connected. If its
    /// connections take over from each other, that is all the time.
    takeovers_until: Option<Instant>,
}

impl Change {
    /// Returns `true` if the slot can be removed.
    fn is_over(&self) -> bool {
        let Self { opening, claims, ended, takeovers_until } = self;
        opening.is_none() && claims.is_none() && ended.is_none() && takeovers_until.is_none()
    }
}

impl Slot {
    fn change(&mut self) -> &mut Change {
        self.change.get_or_insert_default()
    }

    fn opening(&self) -> Option<&(u64, CancellationToken)> {
        self.change.as_ref()?.opening.as_ref()
    }

    fn is_claimed(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.claims.is_some())
    }

    /// Notifies the tasks that wait for the end of the session, or of a session that does not begin.
    fn tell_of_the_end(&mut self) {
        if let Some(ended) = self.change.as_mut().and_then(|change| change.ended.take()) {
            ended.notify_waiters();
        }
    }

    /// Counts a takeover at this moment.
    ///
    /// # Errors
    /// The time to wait if there were too many takeovers. The takeover is not counted then.
    fn take_over(&mut self, per_second: u32, now: Instant) -> Result<(), Duration> {
        let interval = Duration::from_secs(1) / per_second;
        let change = self.change();
        let next = change.takeovers_until.map_or(now, |until| until.max(now)) + interval;
        let wait = next.saturating_duration_since(now + interval * TAKEOVER_BURST);
        if !wait.is_zero() {
            return Err(wait);
        }
        change.takeovers_until = Some(next);
        Ok(())
    }
}

/// A session in the table.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) info: ConnectionInfo,
    pub(crate) generation: u64,
    /// When the session began, in seconds since 1970.
    pub(crate) since: u32,
}

/// A session that is opening, until this is dropped.
pub(crate) struct Opening {
    connections: Arc<Connections>,
    client: ClientId,
    called_off: CancellationToken,
}

impl Opening {
    /// Waits until a newer session of the client is opening on another node.
    pub(crate) async fn called_off(&self) {
        self.called_off.cancelled().await;
    }

    pub(crate) fn is_called_off(&self) -> bool {
        self.called_off.is_cancelled()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut slots = self.connections.lock();
        let Some(slot) = slots.get_mut(&self.client) else { return };
        if let Some(change) = &mut slot.change {
            change.opening = None;
        }
        if slot.session.is_none() {
            slot.tell_of_the_end();
        }
        forget_if_unused(&mut slots, &self.client);
    }
}

/// The result of [`Connections::find`].
pub(crate) enum Found {
    Session(Registered),
    /// The session is opening; the token calls it off.
    Opening(CancellationToken),
    /// There is no such session, but one may begin at any moment.
    Unknown,
    /// The client has no session here.
    Nothing,
}

/// The right to become the next session of a client. Later claims wait until this is dropped.
pub(crate) struct Claim {
    _turn: OwnedMutexGuard<()>, // released before the slot is checked
    slot: SlotUser,
}

/// Removes the client's slot when it is no longer used.
struct SlotUser {
    connections: Arc<Connections>,
    client: ClientId,
}

impl Drop for SlotUser {
    fn drop(&mut self) {
        forget_if_unused(&mut self.connections.lock(), &self.client);
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, NameMap<ClientId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for earlier claims, ends the current session, sends it the address of the connection that takes over,
    /// and waits until it has ended.
    ///
    /// # Cancel safety
    /// If the future is dropped early, the claim is given up. The session still ends if it was asked to.
    pub(crate) async fn claim(self: &Arc<Self>, client: &ClientId, by: Option<ConnectionInfo>) -> Claim {
        let claim = self.turn(client).await;
        self.end_present(client, by).await;
        claim
    }

    /// As [`claim`](Self::claim), but refuses if the client's sessions here have been taken over too often.
    ///
    /// # Errors
    /// The time to wait. The current session continues.
    pub(crate) async fn claim_within(
        self: &Arc<Self>,
        client: &ClientId,
        by: ConnectionInfo,
        per_second: Option<u32>,
    ) -> Result<Claim, Duration> {
        let claim = self.turn(client).await;
        if let Some(per_second) = per_second
            && let Some(slot) = self.lock().get_mut(client)
            && slot.session.as_ref().is_some_and(|session| session.outbox.closed().is_none())
        {
            slot.take_over(per_second, Instant::now())?;
        }
        self.end_present(client, Some(by)).await;
        Ok(claim)
    }

    /// Waits for earlier claims.
    async fn turn(self: &Arc<Self>, client: &ClientId) -> Claim {
        let slot = SlotUser { connections: Arc::clone(self), client: client.clone() };
        let claims = {
            let mut slots = self.lock();
            let slot = slots.entry(client.clone()).or_default();
            Arc::clone(slot.change().claims.get_or_insert_default())
        };
        Claim { _turn: claims.lock_owned().await, slot }
    }

    /// Ends the session of a claimed client, and waits until it has ended.
    async fn end_present(&self, client: &ClientId, by: Option<ConnectionInfo>) {
        loop {
            let ended = {
                let mut slots = self.lock();
                let slot = slots.entry(client.clone()).or_default();
                let Some(session) = &slot.session else { return };
                session.outbox.close_saying(CloseReason::Takeover, Disconnect::takeover(by));
                Arc::clone(slot.change().ended.get_or_insert_default()).notified_owned()
            };
            // `notify_waiters` reaches every `Notified` made before it was called, polled or not.
            ended.await;
        }
    }

    /// The right to keep a client away; `None` if the client is connected or connecting.
    pub(crate) fn claim_absent(self: &Arc<Self>, client: &ClientId) -> Option<Claim> {
        let slot = SlotUser { connections: Arc::clone(self), client: client.clone() };
        let claims = {
            let mut slots = self.lock();
            let slot = slots.entry(client.clone()).or_default();
            Arc::clone(slot.change().claims.get_or_insert_default())
        };
        let claim = Claim { _turn: claims.try_lock_owned().ok()?, slot };
        // Checked while holding the claim, without which no session begins.
        let is_here = self.lock().get(client).is_some_and(|slot| slot.session.is_some());
        (!is_here).then_some(claim)
    }

    /// Records that a session with this generation is opening.
    pub(crate) fn open(self: &Arc<Self>, claim: &Claim, generation: u64) -> Opening {
        let (client, called_off) = (claim.slot.client.clone(), CancellationToken::new());
        self.lock().entry(client.clone()).or_default().change().opening =
            Some((generation, called_off.clone()));
        Opening { connections: Arc::clone(self), client, called_off }
    }

    /// Ends a client's session here, or one that is opening, if its generation is lower than `below`, and waits until
    /// it has ended. The session receives the address of the connection that takes over.
    pub(crate) async fn end_below(&self, client: &ClientId, below: u64, by: Option<ConnectionInfo>) {
        while let Some(ended) = self.begin_to_end_below(client, below, by) {
            ended.await;
        }
    }

    /// As [`end_below`](Self::end_below), without waiting. Returns `None` if there is no such session, otherwise a
    /// notification that it may have ended.
    pub(crate) fn begin_to_end_below(
        &self,
        client: &ClientId,
        below: u64,
        by: Option<ConnectionInfo>,
    ) -> Option<OwnedNotified> {
        let mut slots = self.lock();
        let slot = slots.get_mut(client)?;
        match (&slot.session, slot.opening()) {
            (Some(session), _) if session.generation < below => {
                session.outbox.close_saying(CloseReason::Takeover, Disconnect::takeover(by));
            }
            (None, Some((generation, called_off))) if *generation < below => called_off.cancel(),
            _ => return None,
        }
        // `notify_waiters` reaches every `Notified` made before it was called, polled or not.
        Some(Arc::clone(slot.change().ended.get_or_insert_default()).notified_owned())
    }

    /// Ends all sessions, and calls off sessions that are opening. Returns `true` if none is left.
    pub(crate) fn end_all(&self, reason: CloseReason, farewell: &Disconnect) -> bool {
        let slots = self.lock();
        let mut is_over = true;
        for slot in slots.values() {
            if let Some(session) = &slot.session {
                session.outbox.close_saying(reason, farewell.clone());
            }
            if let Some((_, called_off)) = slot.opening() {
                called_off.cancel();
            }
            is_over &= slot.session.is_none() && slot.opening().is_none();
        }
        is_over
    }

    /// Looks up one session on this node.
    pub(crate) fn find(&self, client: &ClientId, generation: u64) -> Found {
        let slots = self.lock();
        let Some(slot) = slots.get(client) else { return Found::Nothing };
        match (&slot.session, slot.opening()) {
            (Some(session), _) if session.generation == generation => Found::Session(session.clone()),
            (_, Some((opening, called_off))) if *opening == generation => Found::Opening(called_off.clone()),
            _ => Found::Unknown,
        }
    }

    /// Makes `outbox` the session of the claim's client.
    pub(crate) fn register(&self, claim: &Claim, session: Registered) {
        self.lock().entry(claim.slot.client.clone()).or_default().session = Some(session);
    }

    /// Removes a session that has ended, including its close notifier.
    pub(crate) fn unregister(&self, client: &ClientId) {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(client) else { return };
        slot.session = None;
        slot.tell_of_the_end();
        forget_if_unused(&mut slots, client);
    }

    /// The outbox of a connected client whose session is not closing.
    pub(crate) fn outbox(&self, client: &str) -> Option<Arc<Outbox>> {
        self.session(client).map(|session| session.outbox)
    }

    pub(crate) fn session(&self, client: &str) -> Option<Registered> {
        let session = self.lock().get(client)?.session.clone()?;
        session.outbox.closed().is_none().then_some(session)
    }

    /// The session of a client, including one that is closing.
    pub(crate) fn any_session(&self, client: &str) -> Option<Registered> {
        self.lock().get(client)?.session.clone()
    }

    /// All sessions, including those that are closing.
    pub(crate) fn sessions(&self) -> Vec<(ClientId, Registered)> {
        let slots = self.lock();
        let sessions = slots.iter().filter_map(|(client, slot)| Some((client, slot.session.as_ref()?)));
        sessions.map(|(client, session)| (client.clone(), session.clone())).collect()
    }

    /// The outboxes of all sessions that are not closing.
    pub(crate) fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let slots = self.lock();
        let outboxes = slots.values().filter_map(|slot| Some(&slot.session.as_ref()?.outbox));
        outboxes.filter(|outbox| outbox.closed().is_none()).cloned().collect()
    }

    /// All connected clients.
    pub(crate) fn all(&self) -> Vec<(ClientId, ConnectionInfo)> {
        let slots = self.lock();
        let sessions = slots.iter().filter_map(|(client, slot)| Some((client, slot.session.as_ref()?)));
        let open = sessions.filter(|(_, session)| session.outbox.closed().is_none());
        open.map(|(client, session)| (client.clone(), session.info)).collect()
    }
}

fn forget_if_unused(slots: &mut NameMap<ClientId, Slot>, client: &ClientId) {
    if let Some(slot) = slots.get_mut(client) {
        // Claims are taken from the slot under the lock, so a count of one stays one here.
        if let Some(change) = &mut slot.change {
            change.claims.take_if(|claims| Arc::strong_count(claims) == 1);
        }
        slot.change.take_if(|change| change.is_over());
        if slot.session.is_none() && slot.opening().is_none() && !slot.is_claimed() {
            slots.remove(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // ten thousand clients are ten thousand of these, and what a table keeps free
    fn the_slot_of_an_open_session_is_small() {
        assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
    }

    #[test] // protocol.md 2.4
    fn takeovers_are_limited_to_five_at_once_and_then_one_per_second() {
        let (mut slot, start) = (Slot::default(), Instant::now());
        let mut at = |milliseconds| slot.take_over(1, start + Duration::from_millis(milliseconds));
        for _ in 0..5 {
            assert_eq!(at(0), Ok(()));
        }
        assert_eq!(at(0), Err(Duration::from_secs(1)));
        assert_eq!(at(400), Err(Duration::from_millis(600)));
        assert_eq!(at(1000), Ok(()));
        assert_eq!(at(1000), Err(Duration::from_secs(1)));
        for _ in 0..5 {
            assert_eq!(at(60_000), Ok(()));
        }
        assert_eq!(at(60_000), Err(Duration::from_secs(1)));
    }

    #[tokio::test] // protocol.md 2.2: what expires cannot come back half way
    async fn a_client_claimed_as_absent_cannot_connect_meanwhile() {
        let connections = Arc::new(Connections::default());
        let alice = ClientId::parse("alice").unwrap();
        let expiring = connections.claim_absent(&alice).unwrap();
        assert!(connections.claim_absent(&alice).is_none(), "another task has the claim");
        let mut coming = Box::pin(connections.claim(&alice, None));
        assert!(futures_util::poll!(&mut coming).is_pending());
        drop(expiring);
        let entering = coming.await;
        assert!(connections.claim_absent(&alice).is_none(), "alice is connecting");
        drop(entering);
        assert!(connections.claim_absent(&alice).is_some());
        assert!(connections.lock().is_empty(), "no slots of absent clients are kept");
    }
}
