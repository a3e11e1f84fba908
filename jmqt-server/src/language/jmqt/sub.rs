//! `sub` and `unsub` (§7.g, §7.i, protocol.md 2.8, 2.20).

use std::borrow::Cow;

use jmqt_core::{ChannelKind, ChannelName, ClientId, StatusCode};
use jmqt_protocol::{Packet, Sub, SubAck, Unsub, UnsubAck};

use super::answer::{answer, framed};
use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::session::{Session, verbs};

pub(super) async fn handle_sub(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    sub: Sub<'_>,
) -> Flow {
    let Some(channel) = plain_channel(&sub.channel) else {
        answer(session, &sub_ack(StatusCode::INVALID_CHANNEL, sub.channel.trim()));
        return CONTINUE;
    };
    match verbs::subscribe(shared, session, client, &channel, sub.persistence).await? {
        Ok(subscribed) => {
            let ack = framed(session, &sub_ack(StatusCode::OK, channel.as_str()));
            // Together with the channel's messages for the client: the retained message and held pushes.
            let is_full = session.outbox.open(&subscribed.subscription, Some(ack), subscribed.retained);
            session.answered(is_full);
        }
        Err(status) => answer(session, &sub_ack(status, channel.as_str())),
    }
    CONTINUE
}

pub(super) async fn handle_unsub(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    unsub: Unsub<'_>,
) -> Flow {
    let Some(channel) = plain_channel(&unsub.channel) else {
        answer(session, &unsub_ack(StatusCode::INVALID_CHANNEL, unsub.channel.trim()));
        return CONTINUE;
    };
    let status = verbs::unsubscribe(shared, session, client, &channel).await?;
    answer(session, &unsub_ack(status, channel.as_str()));
    CONTINUE
}

/// The channel name, if a client may subscribe to it and unsubscribe from it (2.8).
fn plain_channel(raw: &str) -> Option<ChannelName> {
    ChannelName::parse(raw).ok().filter(|channel| channel.kind() == ChannelKind::Plain)
}

fn sub_ack(status: StatusCode, channel: &str) -> Packet<'_> {
    Packet::SubAck(SubAck { status, channel: Some(Cow::Borrowed(channel)) })
}

fn unsub_ack(status: StatusCode, channel: &str) -> Packet<'_> {
    Packet::UnsubAck(UnsubAck { status, channel: Some(Cow::Borrowed(channel)) })
}
