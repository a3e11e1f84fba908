//! Clients and their connections.

use std::cmp::Reverse;
use std::sync::Arc;

use jmqt_core::{ClientId, Persistence};
use serde_json::{Value, json};

use super::messages::pending_json;
use super::page::{MOST_ENTRIES, USUAL_PAGE, page};
use super::schema::Arguments;
use super::{Outcome, failed, no_such_client};
use crate::admin::{Operator, labels};
use crate::connection::ConnectionInfo;
use crate::disconnect::Disconnect;
use crate::hub::{Registered, shown_name};
use crate::outbox::Load;

fn connection_json(operator: &Operator, client: &ClientId, info: ConnectionInfo) -> Value {
    let hub = &operator.shared.hub;
    let here = hub.connections.session(client.as_str());
    let node = match &here {
        Some(_) => hub.operators.own_node(),
        None => hub.operators.other_node_of(client).unwrap_or_else(|| hub.operators.own_node()),
    };
    let [(_, protocol), (_, transport)] = labels(info.protocol);
    let mut answer = json!({
        "client": client.as_str(), "node": node, "address": info.remote.to_string(),
        "protocol": protocol, "transport": transport,
    });
    if let Some(here) = here {
        answer["since"] = here.since.into();
    }
    answer
}

pub(super) async fn connections(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    // Looking at every client takes a while if there are many, and the threads of the server have other work.
    let listing = tokio::task::spawn_blocking(move || list(&operator, &arguments));
    listing.await.map_err(|_| failed(&crate::hub::HubError::SessionEnded))
}

fn list(operator: &Operator, arguments: &Arguments) -> Value {
    let hub = &operator.shared.hub;
    let mut all =
        if arguments.is("here") { hub.connections.all() } else { operator.shared.handle.connections() };
    let (begins, contains) = (arguments.text("begins"), arguments.text("contains"));
    let protocol = arguments.text("protocol");
    all.retain(|(client, info)| {
        begins.is_none_or(|begins| client.as_str().starts_with(begins))
            && contains.is_none_or(|contains| client.as_str().contains(contains))
            && protocol.is_none_or(|protocol| labels(info.protocol)[0].1 == protocol)
    });
    let matching = all.len();
    let (page, next) = page(all, arguments, |(client, _)| client.as_str());
    let page: Vec<Value> =
        page.iter().map(|(client, info)| connection_json(operator, client, *info)).collect();
    let mut answer = json!({ "connections": page, "matching": matching });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    answer
}

pub(super) async fn connection(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let client = arguments.client("client")?;
    let hub = &operator.shared.hub;
    let here = hub.connections.session(client.as_str());
    let info = here.as_ref().map(|session| session.info).or_else(|| {
        let all = hub.cluster.as_ref()?.elsewhere();
        all.into_iter().find(|(other, _)| other == client).map(|(_, info)| info)
    });
    let is_remembered = hub.operators.is_known(client).await.map_err(|error| failed(&error))?;
    if info.is_none() && !is_remembered {
        return Err(no_such_client(client));
    }
    let subscriptions = match &here {
        // Those with filters, too.
        Some(session) => {
            let live = session.outbox.subscriptions();
            let own = live.iter().filter(|subscription| !subscription.own_options().is_of_filter());
            own.map(|subscription| (subscription.channel.clone(), subscription.persistence())).collect()
        }
        None => hub.anywhere.of(client).await.map_err(|error| failed(&error))?,
    };
    let subscription_count = subscriptions.len();
    let subscriptions: Vec<Value> = subscriptions
        .iter()
        .take(MOST_ENTRIES)
        .map(|(name, persistence)| {
            let (kind, name) = shown_name(name);
            json!({ kind: name, "persistent": *persistence == Persistence::Persistent })
        })
        .collect();
    let pending = hub.operators.pending_of(client).await.map_err(|error| failed(&error))?;
    let (pending, pending_messages) = pending_json(&pending);
    let mut answer = json!({
        "client": client.as_str(), "connected": info.is_some(), "remembered": is_remembered,
        "subscriptions": subscriptions, "subscription_count": subscription_count,
        "pending": pending, "pending_messages": pending_messages,
    });
    if let Some(info) = info {
        answer["connection"] = connection_json(&operator, client, info);
    }
    if let Some(session) = here {
        answer["load"] = load_json(client, &session, session.outbox.load());
    }
    Ok(answer)
}

fn load_json(client: &ClientId, session: &Registered, load: Load) -> Value {
    json!({
        "client": client.as_str(), "address": session.info.remote.to_string(),
        "queued_bytes": load.queued_bytes, "in_flight": load.in_flight, "window_full": load.is_window_full,
    })
}

pub(super) async fn slow(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let listing = tokio::task::spawn_blocking(move || slowest(&operator, &arguments));
    listing.await.map_err(|_| failed(&crate::hub::HubError::SessionEnded))
}

fn slowest(operator: &Operator, arguments: &Arguments) -> Value {
    let sessions = operator.shared.hub.connections.sessions().into_iter();
    let with_load = sessions.map(|(client, session)| {
        let load = session.outbox.load();
        (client, session, load)
    });
    let mut slow: Vec<_> =
        with_load.filter(|(.., load)| load.queued_bytes > 0 || load.is_window_full).collect();
    slow.sort_by_key(|(_, _, load)| Reverse((load.queued_bytes, load.in_flight)));
    slow.truncate(usize::try_from(arguments.integer("limit", USUAL_PAGE)).unwrap_or(usize::MAX));
    let slow: Vec<Value> =
        slow.iter().map(|(client, session, load)| load_json(client, session, *load)).collect();
    json!({ "clients": slow })
}

pub(super) async fn disconnect(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let client = arguments.client("client")?;
    let message = arguments.text("message").unwrap_or("disconnected by an operator");
    let disconnect = match arguments.is("keep_out") {
        true => Disconnect::kick(message),
        false => Disconnect::by_application(message),
    };
    let existed = operator.shared.handle.disconnect_with(client, disconnect);
    Ok(json!({ "existed": existed }))
}
