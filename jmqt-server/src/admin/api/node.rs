//! This node, and the others.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schema::{Arguments, refused};
use super::{Outcome, failed};
use crate::admin::Operator;
use crate::hub::HubError;

pub(super) async fn nodes(operator: Arc<Operator>, _: Arguments) -> Outcome {
    let nodes: Vec<Value> = operator
        .shared
        .hub
        .operators
        .nodes()
        .into_iter()
        .map(|(node, is_this, is_present)| json!({ "node": node, "this": is_this, "present": is_present }))
        .collect();
    Ok(json!({
        "nodes": nodes, "version": env!("CARGO_PKG_VERSION"), "draining": operator.is_stopping(),
    }))
}

pub(super) async fn counters(operator: Arc<Operator>, _: Arguments) -> Outcome {
    let counting = tokio::task::spawn_blocking(move || count(&operator));
    counting.await.map_err(|_| failed(&HubError::SessionEnded))
}

fn count(operator: &Operator) -> Value {
    let hub = &operator.shared.hub;
    let (mut sessions, mut queued, mut in_flight) = (0_u64, 0, 0);
    for (_, session) in hub.connections.sessions() {
        let load = session.outbox.load();
        (sessions, queued, in_flight) =
            (sessions + 1, queued + load.queued_bytes, in_flight + load.in_flight);
    }
    let (groups, shares) = hub.subscribers.groups.counts();
    let subscriptions = (hub.subscribers.channels.subscriptions() + hub.subscribers.filters.len() + shares)
        .saturating_sub(groups);
    let counters = hub.counters.snapshot();
    let counters: Map<String, Value> =
        counters.each().map(|(name, _, _, count)| (name.to_owned(), count.into())).collect();
    json!({
        "counters": counters, "uptime_seconds": operator.started.elapsed().as_secs(), "sessions": sessions,
        "subscriptions": subscriptions, "queued_bytes": queued, "in_flight": in_flight,
    })
}

pub(super) async fn drain(operator: Arc<Operator>, arguments: Arguments) -> Outcome {
    let own = operator.shared.hub.operators.own_node();
    if arguments.text("node") != Some(&own) {
        return Err(refused("this is another node", "body.node", format!("{own:?}, the id of this node")));
    }
    let sessions = operator.shared.hub.connections.all().len();
    tracing::warn!(target: "jmqt::admin", sessions, "draining this node: an operator asks for it. Restart it to serve clients again");
    operator.drain.cancel();
    Ok(json!({ "sessions": sessions }))
}
