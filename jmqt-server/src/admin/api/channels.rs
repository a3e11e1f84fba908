//! Subscriptions.

use std::sync::Arc;

use jmqt_core::Persistence;
use serde_json::json;

use super::page::page;
use super::schema::Arguments;
use super::{Outcome, refused};
use crate::admin::Operator;

fn persistence(is_persistent: bool) -> Persistence {
    if is_persistent { Persistence::Persistent } else { Persistence::Temporary }
}

pub(super) async fn subscribe(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let (client, channel) = (arguments.client("client")?, arguments.channel("channel")?);
    let persistence = persistence(arguments.is("persistent"));
    let subscribed = operator.shared.handle.force_sub(client, channel, persistence).await;
    subscribed.map(|()| json!({ "subscribed": true })).map_err(|error| refused(&error))
}

pub(super) async fn unsubscribe(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let (client, channel) = (arguments.client("client")?, arguments.channel("channel")?);
    let existed = operator.shared.handle.force_unsub(client, channel).await;
    existed.map(|existed| json!({ "existed": existed })).map_err(|error| refused(&error))
}

pub(super) async fn subscriptions(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let subscribers = operator.shared.handle.subscribers(arguments.channel("channel")?);
    let matching = subscribers.len();
    let (page, next) = page(subscribers, &arguments, |(client, _)| client.as_str());
    let page: Vec<_> = page
        .into_iter()
        .map(|(client, persistence)| {
            json!({ "client": client.as_str(), "persistent": persistence == Persistence::Persistent })
        })
        .collect();
    let mut answer = json!({ "subscriptions": page, "matching": matching });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(answer)
}
