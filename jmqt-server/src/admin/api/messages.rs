//! Messages: publishing, retained ones, and those that wait for clients.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::join_all;
use hyper::StatusCode;
use jmqt_core::{ChannelKind, ChannelName, Qos, Retain};
use serde_json::{Value, json};

use super::page::MOST_ENTRIES;
use super::schema::{Arguments, refused as wrong};
use super::{Outcome, failed, no_such_client};
use crate::admin::Operator;
use crate::admin::answer::Refusal;
use crate::attributes::{Attributes, DataForm, Values};
use crate::hub::{PendingMessages, Purged, shown_name};
use crate::message::{Data, Message};

/// The message that a request describes.
fn message(arguments: &Arguments, qos: Qos, retain: bool) -> Result<Message, Refusal> {
    let channel = arguments.channel("channel")?.clone();
    let retain = match (channel.kind(), retain) {
        (ChannelKind::Control, _) => {
            return Err(wrong("a control channel has no messages", "body.channel", "another channel"));
        }
        (ChannelKind::PeerToPeer, true) => {
            let expected = "false for a point-to-point channel";
            return Err(wrong("a point-to-point channel has no retained message", "body.retain", expected));
        }
        (_, true) => Retain::Yes,
        (_, false) => Retain::No,
    };
    let sender = match arguments.text("sender") {
        Some(_) => Some(arguments.client("sender")?.clone()),
        None => None,
    };
    if sender.is_some() && channel.peer() == sender {
        let what = "a client does not publish to its own point-to-point channel";
        return Err(wrong(what, "body.sender", "no sender, or another channel"));
    }
    Ok(Message { channel, sender, data: data(arguments)?, qos, retain })
}

fn data(arguments: &Arguments) -> Result<Data, Refusal> {
    let in_form = |form| Attributes::new(Values { form, ..Values::default() });
    match (arguments.json("data"), arguments.text("text"), arguments.text("base64")) {
        (Some(json), None, None) => Ok(Data::checked_before(Bytes::copy_from_slice(json.as_bytes()))),
        (None, Some(text), None) => {
            Ok(Data::new(Bytes::copy_from_slice(text.as_bytes()), in_form(DataForm::Text)))
        }
        (None, None, Some(text)) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Data::new(bytes.into(), in_form(DataForm::Binary))),
            Err(_) => Err(wrong("the value is wrong", "body.base64", "Base64 with padding")),
        },
        _ => Err(wrong("the message has no data, or several", "body", "one of data, text and base64")),
    }
}

fn qos(arguments: &Arguments) -> Qos {
    if arguments.integer("qos", 0) == 1 { Qos::AtLeastOnce } else { Qos::AtMostOnce }
}

pub(super) async fn publish(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let message = message(&arguments, qos(&arguments), arguments.is("retain"))?;
    publish_message(&operator, message).await
}

pub(super) async fn set_retained(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    publish_message(&operator, message(&arguments, Qos::AtLeastOnce, true)?).await
}

async fn publish_message(operator: &Operator, message: Message) -> Outcome {
    let published = operator.shared.hub.publish(message).await;
    published.map(|()| json!({ "published": true })).map_err(|error| failed(&error))
}

pub(super) async fn publish_many(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let each = arguments.list("messages").iter().map(|arguments| async {
        let message = message(arguments, qos(arguments), arguments.is("retain"))?;
        publish_message(&operator, message).await
    });
    // They are submitted in order, and the store commits many at a time.
    let outcomes = join_all(each).await;
    let published = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused: Vec<Value> = outcomes
        .into_iter()
        .enumerate()
        .filter_map(|(index, outcome)| {
            let Refusal { what, place, expected, .. } = outcome.err()?;
            Some(json!({ "index": index, "what": what, "where": place, "expected": expected }))
        })
        .collect();
    Ok(json!({ "published": published, "refused": refused }))
}

pub(super) async fn retained_channels(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let text = arguments.text("filter").unwrap_or("#");
    let Some(filter) = crate::hub::name_of_filter_text(text) else {
        return Err(wrong("the value is wrong", "parameter filter", "an MQTT filter, such as rooms/+/state"));
    };
    let after = match arguments.text("after").map(ChannelName::parse) {
        None => None,
        Some(Ok(after)) => Some(after),
        Some(Err(_)) => {
            return Err(wrong("the value is wrong", "parameter after", "`next` of the page before"));
        }
    };
    let page = operator.shared.hub.retained.matching(&filter, after.as_ref()).await;
    let (channels, next) = page.map_err(|error| failed(&error))?;
    let channels: Vec<Value> =
        channels.iter().map(|channel| json!({ "channel": channel.as_str() })).collect();
    let mut answer = json!({ "channels": channels });
    if let Some(next) = next {
        answer["next"] = next.as_str().into();
    }
    Ok(answer)
}

pub(super) async fn retained(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let channel = arguments.channel("channel")?;
    let retained = operator.shared.hub.retained.push(channel).await.map_err(|error| failed(&error))?;
    let Some(retained) = retained else {
        let what = "the channel has no retained message";
        let expected = "a channel with a retained message";
        return Err(Refusal::new(StatusCode::NOT_FOUND, what, "parameter channel", expected));
    };
    let data: Value = serde_json::from_slice(&retained.data.json().text).unwrap_or_default();
    let bytes = STANDARD.encode(retained.data.as_bytes());
    let mut answer = json!({ "channel": channel.as_str(), "data": data, "base64": bytes });
    if let Some(sender) = retained.sender {
        answer["sender"] = sender.as_str().into();
    }
    Ok(answer)
}

pub(super) async fn clear_retained(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let existed = operator.shared.hub.retained.clear(arguments.channel("channel")?).await;
    existed.map(|existed| json!({ "existed": existed })).map_err(|error| failed(&error))
}

/// The first entries, and the number of all messages.
pub(super) fn pending_json(pending: &[PendingMessages]) -> (Vec<Value>, u64) {
    let entries = pending.iter().take(MOST_ENTRIES).map(|pending| {
        let (kind, name) = shown_name(&pending.channel);
        json!({ kind: name, "messages": pending.messages })
    });
    (entries.collect(), pending.iter().map(|pending| pending.messages).sum())
}

pub(super) async fn pending(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let pending = operator.shared.hub.operators.pending_of(arguments.client("client")?).await;
    let (pending, messages) = pending_json(&pending.map_err(|error| failed(&error))?);
    Ok(json!({ "pending": pending, "messages": messages }))
}

pub(super) async fn purge(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let (client, hub) = (arguments.client("client")?, &operator.shared.hub);
    match hub.operators.purge(client).await.map_err(|error| failed(&error))? {
        Purged::IsConnected => {
            let expected = "a client that is not connected: disconnect it first";
            let status = StatusCode::CONFLICT;
            Err(Refusal::new(status, "the client is connected", "parameter client", expected))
        }
        Purged::Messages(0) if !hub.operators.is_known(client).await.map_err(|error| failed(&error))? => {
            Err(no_such_client(client))
        }
        Purged::Messages(dropped) => Ok(json!({ "dropped": dropped })),
    }
}
