//! Health checks: `/healthz`, whether the process lives, and `/readyz`, whether clients should use this server.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::Operator;
use super::answer::{Answer, answer, json_answer};

/// The time limit of the whole check. Usual checks wait for a second or more.
const LIMIT: Duration = Duration::from_millis(900);

/// The process lives, and has a thread that answers.
pub(super) fn alive() -> Answer {
    answer(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")
}

/// Whether clients should use this server, and what is in the way.
pub(super) async fn ready(operator: &Operator) -> Answer {
    let checks = check(operator).await;
    let is_ready = checks.iter().all(|(_, problem)| problem.is_none());
    let checks: Map<String, Value> =
        checks.into_iter().map(|(name, problem)| (name.to_owned(), problem.unwrap_or("ok").into())).collect();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_answer(status, &json!({ "ready": is_ready, "checks": checks }))
}

/// The checks by name, each with its problem.
async fn check(operator: &Operator) -> Vec<(&'static str, Option<&'static str>)> {
    let shared = &operator.shared;
    let mut checks = vec![
        ("running", operator.is_stopping().then_some("the server is stopping, or this node was drained")),
        ("tasks", shared.failed.is_cancelled().then_some("a task of the server failed; the log names it")),
        ("store", store(operator).await),
    ];
    if let Some(cluster) = &shared.hub.cluster {
        checks.push(("bus", (!cluster.is_linked()).then_some("not connected to Redis")));
    }
    checks
}

/// Reads from the store, on the server's runtime: a runtime that does not get round to it is no better than a store
/// that does not answer.
async fn store(operator: &Operator) -> Option<&'static str> {
    let hub = &operator.shared.hub;
    if let Some(trouble) = hub.trouble() {
        return Some(trouble);
    }
    let hub = std::sync::Arc::clone(hub);
    match operator.on_server(LIMIT, async move { hub.operators.can_read().await }).await {
        Some(true) => None,
        Some(false) => Some("the database cannot be read; the log has the cause"),
        None => Some("the database does not answer in time, or the server is overloaded"),
    }
}
