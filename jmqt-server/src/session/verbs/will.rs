//! Wills of MQTT clients: asks the pub validator when a client leaves a will and when it is published (3.1.2.5).

use std::future::poll_fn;

use futures_util::future::join_all;
use jmqt_core::ClientId;

use crate::connection::ConnectionInfo;
use crate::context::Shared;
use crate::hub::{DueWill, NewWill};
use crate::message::{Body, Data, Message};
use crate::store::WILLS_AT_A_TIME;
use crate::validators::{Asked, PubData, PubRequest, PubVerdict, asking, let_go, poll_guarded};

/// Asks the application whether a client may leave this will.
pub(crate) async fn is_will_allowed(
    shared: &Shared,
    connection: ConnectionInfo,
    client: &ClientId,
    will: &NewWill,
) -> bool {
    allowed(shared, connection, client, &will.message(client)).await.is_some()
}

/// Asks the pub validator. Returns the data to publish; `None` if the will is refused.
async fn allowed(
    shared: &Shared,
    connection: ConnectionInfo,
    client: &ClientId,
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
        session: None.into(),
    };
    let mut question = asking(|| shared.validators.publish.validate_pub(&request));
    let answer = poll_fn(|cx| poll_guarded(&mut question, cx));
    let asked = tokio::time::timeout(shared.limits.validator_timeout, answer).await;
    let_go("pub validator", question);
    match asked.unwrap_or(Asked::TimedOut).logged("pub validator", client.as_str()) {
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
    shared.hub.end_will(client, generation, node, at_least).await;
    publish_due_wills(shared, Some(client)).await;
}

/// Publishes the wills that are due, of all clients or of one. Those that fail are tried again later.
pub(crate) async fn publish_due_wills(shared: &Shared, of: Option<&ClientId>) {
    loop {
        let due = shared.hub.due_wills(of).await;
        let is_last = due.len() < WILLS_AT_A_TIME;
        let published = join_all(due.into_iter().map(|will| publish(shared, will))).await;
        if is_last || published.contains(&false) {
            return;
        }
    }
}

/// Publishes a will, if it is still allowed. Returns `false` if it is to be tried again.
async fn publish(shared: &Shared, will: DueWill) -> bool {
    // Permissions may have changed since the client left it.
    let client = will.client().clone();
    let Some(data) = allowed(shared, will.connection, &client, &will.message).await else {
        shared.hub.refuse_will(will).await;
        return true;
    };
    match shared.hub.publish_will(will, data).await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(target: "jmqt::session", %client, %error, "a will was not published; trying again");
            false
        }
    }
}
