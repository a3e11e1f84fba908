//! Wills: messages that a client leaves for the case that its connection is lost (3.1.2.5).

use std::sync::Arc;
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId, Qos, Retain};

use super::Client;
use crate::connection::ConnectionInfo;
use crate::context::Shared;
use crate::log_limit::log_limited;
use crate::message::{Data, Message};
use crate::session::verbs::WillOf;
use crate::session::{Session, verbs};

/// The will of a connection.
pub(super) struct Will {
    pub(super) channel: ChannelName,
    pub(super) data: Data,
    pub(super) qos: Qos,
    pub(super) retain: Retain,
    /// The time between the end of the connection and the publish.
    pub(super) delay: Duration,
}

impl Will {
    /// Asks the application for the will. Returns the data to publish.
    pub(super) async fn ask(
        &self,
        shared: &Shared,
        connection: ConnectionInfo,
        client: &ClientId,
    ) -> Option<Data> {
        let Self { channel, data, qos, retain, .. } = self;
        let will = WillOf { connection, client, channel, data, qos: *qos, retain: *retain };
        verbs::allowed_will(shared, will).await
    }
}

/// Publishes the will of a connection that has ended, unless the client has deleted it.
pub(in crate::language) async fn ended(shared: &Arc<Shared>, session: &Session, client: &mut Client) {
    let (Some(will), Some(member)) = (client.will.take(), &session.member) else { return };
    let (id, info) = (member.client.clone(), session.info);
    let place = match will.delay.is_zero() {
        true => None,
        false => Arc::clone(&shared.waiting_wills).try_acquire_owned().ok(),
    };
    let Some(place) = place else {
        if !will.delay.is_zero() {
            log_limited!(warn, target: "jmqt::session", "publishing a will before its delay is over: too many wills wait");
        }
        return publish(shared, info, &id, &will).await;
    };
    // It must not keep a stopping server alive.
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        tokio::time::sleep(will.delay).await;
        // If the client has come back, its session has not ended.
        if let Some(shared) = shared.upgrade()
            && !shared.hub.is_connected_here(&id)
        {
            publish(&shared, info, &id, &will).await;
        }
        drop(place);
    });
}

async fn publish(shared: &Shared, info: ConnectionInfo, id: &ClientId, will: &Will) {
    // Permissions may have changed since the client left its will.
    let Some(data) = will.ask(shared, info, id).await else { return };
    let Will { channel, qos, retain, .. } = will;
    let message =
        Message { channel: channel.clone(), sender: Some(id.clone()), data, qos: *qos, retain: *retain };
    if let Err(error) = shared.hub.publish(message).await {
        tracing::warn!(target: "jmqt::session", client = %id, %error, "a will was not published");
    }
}
