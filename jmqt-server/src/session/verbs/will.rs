//! Wills of MQTT clients: asks the pub validator when a client leaves a will and when it is published (3.1.2.5).

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::Duration;

use futures_util::future::join_all;
use jmqt_core::ClientId;
use tokio::time::Instant;

use crate::connection::ConnectionInfo;
use crate::context::Shared;
use crate::hub::{DueWill, NewWill};
use crate::message::{Body, Data, Message};
use crate::store::WillKey;
use crate::validators::{Asked, PubData, PubRequest, PubVerdict, SessionData, asking, let_go, poll_guarded};

/// The pause before a will that could not be published is tried again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The most wills whose failures are remembered.
const REMEMBERED: usize = 1024;
/// The most reads of one look.
const LOOKS: usize = 64;

/// Asks the application whether a client may leave this will. `data` is what `auth` has attached for the client.
pub(crate) async fn is_will_allowed(
    shared: &Shared,
    connection: ConnectionInfo,
    client: &ClientId,
    data: Option<&SessionData>,
    will: &NewWill,
) -> bool {
    allowed(shared, connection, client, data, &will.message(client)).await.is_some()
}

/// Asks the pub validator. Returns the data to publish; `None` if the will is refused.
async fn allowed(
    shared: &Shared,
    connection: ConnectionInfo,
    client: &ClientId,
    data: Option<&SessionData>,
    will: &Message,
) -> Option<Data> {
    let view = PubData::new(Body::Bytes(will.data.as_bytes(), will.data.attributes()));
    let request = PubRequest {
        connection,
        client,
        channel: &will.channel,
        data: &view,
        qos: will.qos,
        retain: will.retain,
        is_will: true,
        server: &shared.handle,
        session: data.into(),
    };
    let mut question = asking(|| shared.validators.publish.validate_pub(&request));
    let answer = poll_fn(|cx| poll_guarded(&mut question, cx));
    let asked = tokio::time::timeout(shared.limits.validator_timeout, answer).await;
    let_go("pub validator", question);
    match asked.unwrap_or(Asked::TimedOut).logged("pub validator", client.as_str(), Some(connection.remote)) {
        Some(PubVerdict::Allow) => Some(will.data.clone()),
        Some(PubVerdict::Replace(replacement)) => Some(Data::copy_of(replacement.data())),
        Some(PubVerdict::Refuse(_)) => None,
        None => {
            shared.hub.counters.validator_failures.increment();
            None
        }
    }
}

/// Ends the connection that has left a will: publishes the will if its delay is 0, otherwise its delay begins. It is not due
/// before `at_least` seconds.
pub(crate) async fn end_will(shared: &Shared, client: &ClientId, generation: u64, node: &str, at_least: u32) {
    shared.hub.wills.end(client, generation, node, at_least).await;
    loop {
        let (due, may_be_more) = shared.hub.wills.due(Some(client), 0).await;
        // Those that fail are tried again later.
        if !publish_all(shared, due).await.is_empty() || !may_be_more {
            return;
        }
    }
}

/// The wills of all clients that are due and could not be published. They are tried again, each after its own pause, and do not
/// hold up others.
#[derive(Default)]
pub(crate) struct OverdueWills {
    /// The next look begins after this number of wills, which have been tried or wait.
    skip: usize,
    failed: HashMap<WillKey, Failed>,
}

/// A will that could not be published.
struct Failed {
    /// It is tried again at this time.
    at: Instant,
    pause: Duration,
}

impl OverdueWills {
    fn waits(&self, will: &WillKey, now: Instant) -> bool {
        self.failed.get(will).is_some_and(|failed| now < failed.at)
    }

    fn failed(&mut self, will: WillKey, now: Instant) {
        if self.failed.len() >= REMEMBERED && !self.failed.contains_key(&will) {
            return; // it is tried again in the next round
        }
        let failed = self.failed.entry(will).or_insert(Failed { at: now, pause: FIRST_PAUSE / 2 });
        failed.pause = (failed.pause * 2).min(LONGEST_PAUSE);
        failed.at = now + failed.pause;
    }

    /// Forgets wills that were not tried again: they exist no more.
    fn prune(&mut self, now: Instant) {
        self.failed.retain(|_, failed| now < failed.at + LONGEST_PAUSE);
    }
}

/// Publishes wills that are due, of all clients. Those that fail are tried again later.
pub(crate) async fn publish_due_wills(shared: &Shared, overdue: &mut OverdueWills) {
    for _ in 0..LOOKS {
        let (mut due, may_be_more) = shared.hub.wills.due(None, overdue.skip).await;
        let (now, found) = (Instant::now(), due.len());
        due.retain(|will| !overdue.waits(will.key(), now));
        let waiting = found - due.len();
        let failed = publish_all(shared, due).await;
        overdue.skip += waiting + failed.len();
        let is_any_failed = !failed.is_empty();
        for will in failed {
            overdue.failed(will, Instant::now());
        }
        if !may_be_more {
            overdue.skip = 0;
            return overdue.prune(now);
        }
        if is_any_failed {
            return; // perhaps the database is unavailable
        }
    }
}

/// Publishes wills, and returns those that are to be tried again.
async fn publish_all(shared: &Shared, due: Vec<DueWill>) -> Vec<WillKey> {
    join_all(due.into_iter().map(|will| publish(shared, will))).await.into_iter().flatten().collect()
}

/// Publishes a will, if it is still allowed. Returns it if it is to be tried again.
async fn publish(shared: &Shared, will: DueWill) -> Option<WillKey> {
    // Permissions may have changed since the client left it.
    let key = will.key().clone();
    let client = &key.client;
    let Some(data) = allowed(shared, will.connection, client, None, &will.message).await else {
        shared.hub.wills.refuse(will).await;
        return None;
    };
    match shared.hub.wills.publish(will, data).await {
        Ok(()) => None,
        Err(error) => {
            tracing::debug!(target: "jmqt::session", %client, %error, "a will was not published; trying again");
            Some(key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_of_a_will_that_fails_grow_and_those_of_others_do_not() {
        let will = |client: &str| WillKey {
            client: ClientId::parse(client).unwrap(),
            generation: 1,
            node: "node".to_owned(),
        };
        let (mut overdue, mut now) = (OverdueWills::default(), Instant::now());
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert!(!overdue.waits(&will("bad"), now));
            overdue.failed(will("bad"), now);
            assert!(overdue.waits(&will("bad"), now) && !overdue.waits(&will("good"), now));
            now += Duration::from_secs(pause);
            overdue.prune(now);
        }
        overdue.prune(now + LONGEST_PAUSE);
        assert!(overdue.failed.is_empty());
        (0..2 * REMEMBERED).for_each(|number| overdue.failed(will(&number.to_string()), now));
        assert_eq!(overdue.failed.len(), REMEMBERED);
    }
}
