//! The admin API: [`routes`] describes it, [`schema`] is the language of the description, and the other files do what is
//! asked.
//!
//! A request needs a key in a header, which no page of another host can add, and a body needs the content type of JSON, which such a
//! page may not send either. What a request asks for is done on the server's runtime, within a time limit, also if the
//! connection ends meanwhile.

mod channels;
mod clients;
mod messages;
mod node;
mod once;
mod openapi;
mod page;
mod routes;
mod schema;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, StatusCode};
use jmqt_core::ClientId;
use serde_json::Value;

use super::Operator;
use super::answer::{Answer, Refusal, answer as plain_answer, json_answer};
use super::keys::{Holder, Scope};
use crate::handle::HandleError;
use crate::hub::HubError;
use once::{Begun, Once};
use routes::{ROUTES, Route};
use schema::Arguments;

/// The paths of the API begin with this.
pub(super) const PREFIX: &str = "/api/v1/";
/// The longest body.
const MOST_BODY_BYTES: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take for a request. Shorter than a connection lives.
const LIMIT: Duration = Duration::from_secs(30);
/// The header of a request that is to be done once, however often it is sent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a route returns.
type Outcome = Result<Value, Refusal>;

/// The work of a route.
type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The API of a server.
pub(super) struct Api {
    once: Arc<Once>,
}

impl Api {
    pub(super) fn new() -> Self {
        Self { once: Arc::default() }
    }

    /// The scope that a request needs; `None`: anybody may ask.
    pub(super) fn scope(&self, method: &Method, path: &str) -> Result<Option<Scope>, Refusal> {
        if path == openapi::PATH {
            return match *method {
                Method::GET | Method::HEAD => Ok(None),
                _ => Err(Refusal::method("GET, HEAD")),
            };
        }
        routes::find(method, path).map(|route| Some(route.scope))
    }

    /// Does what is asked by somebody who may.
    pub(super) async fn answer(
        &self,
        operator: &Arc<Operator>,
        request: Request<Incoming>,
        holder: Option<Holder>,
    ) -> Result<Answer, Refusal> {
        let Some(holder) = holder else {
            return Ok(plain_answer(StatusCode::OK, "application/json", openapi::text()));
        };
        let route = routes::find(request.method(), request.uri().path())?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let (parts, body) = request.into_parts();
        let (arguments, body) = if route.body.is_empty() {
            (schema::read_query(&query, route.query)?, Bytes::new())
        } else {
            if !query.is_empty() {
                return Err(schema::refused("this path has no parameters", "query", "a body"));
            }
            check_content_type(&parts.headers)?;
            let body = read(body).await?;
            let text = std::str::from_utf8(&body)
                .map_err(|_| schema::refused("the body is not UTF-8", "body", "JSON in UTF-8"))?;
            (schema::read_body(text, route.body)?, body)
        };
        note(route, &arguments, &holder.name);
        let outcome = match idempotency_key(&parts.headers, route)? {
            Some(key) => self.do_once(operator, route, arguments, (holder.name, key, body)).await,
            None => done(operator, (route.run)(Arc::clone(operator), arguments)).await,
        };
        outcome.map(|content| json_answer(StatusCode::OK, &content))
    }

    /// Does something unless it was done with this idempotency key before.
    async fn do_once(
        &self,
        operator: &Arc<Operator>,
        route: &'static Route,
        arguments: Arguments,
        (name, key, body): (String, String, Bytes),
    ) -> Outcome {
        let work = match self.once.begin(&name, &key, route.path, &body)? {
            Begun::Answered(content) => return Ok(content),
            Begun::Now(turn) => {
                let work = (route.run)(Arc::clone(operator), arguments);
                async move {
                    let outcome = work.await;
                    turn.end(&outcome);
                    outcome
                }
            }
        };
        done(operator, Box::pin(work)).await
    }
}

/// Logs what an operator changes. Publishes may be many, and are no change of the server.
fn note(route: &Route, arguments: &Arguments, key: &str) {
    let (client, channel) = (arguments.text("client"), arguments.text("channel"));
    if route.is_once {
        tracing::debug!(target: "jmqt::admin", key, route = route.name, channel, "an operator publishes");
    } else if route.scope == Scope::Write {
        tracing::info!(target: "jmqt::admin", key, route = route.name, client, channel, "an operator asks");
    }
}

/// Runs the work of a route on the server.
async fn done(operator: &Arc<Operator>, work: Work) -> Outcome {
    match operator.on_server(LIMIT, work).await {
        Some(outcome) => outcome,
        None => {
            let what = "the server did not finish in time, or is stopping; what was asked may have been done in part";
            let expected = "another attempt, later";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, what, "server", expected).retry_after(5))
        }
    }
}

/// A page of another host cannot send this content type without being asked first, and is answered nothing then.
fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(Refusal::new(status, "the body is not declared as JSON", "header Content-Type", "application/json"))
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let too_large = || {
        let expected = format!("at most {MOST_BODY_BYTES} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large", "body", expected)
    };
    // An announced length is refused before a byte is read.
    let announced = hyper::body::Body::size_hint(&body).lower();
    if announced > MOST_BODY_BYTES as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MOST_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(schema::refused("the body cannot be read", "body", "a complete body")),
        Err(_) => {
            let expected = "a body within 10 seconds";
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body takes too long", "body", expected))
        }
    }
}

/// The idempotency key of a request, if it has one, and the route may have one.
fn idempotency_key(headers: &HeaderMap, route: &Route) -> Result<Option<String>, Refusal> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let place = "header Idempotency-Key";
    if !route.is_once {
        return Err(schema::refused("this path takes no idempotency key", place, "no such header"));
    }
    let key = key.to_str().ok().filter(|key| (1..=128).contains(&key.len()));
    let refused = || schema::refused("the idempotency key is wrong", place, "1 to 128 visible characters");
    key.map(|key| Some(key.to_owned())).ok_or_else(refused)
}

/// Why the hub could not do something.
fn failed(error: &HubError) -> Refusal {
    let conflict =
        |expected: &'static str| Refusal::new(StatusCode::CONFLICT, error.to_string(), "server", expected);
    match error {
        HubError::TooManyRetained => conflict("fewer retained messages, or higher limits"),
        HubError::SessionEnded
        | HubError::Superseded
        | HubError::OfAnotherOwner
        | HubError::TooManyTakeovers(_) => conflict("a client that is connected"),
        HubError::Store | HubError::Unknown | HubError::NoRoom => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Refusal::new(
                status,
                error.to_string(),
                "server",
                "a database that answers; the log has the cause",
            )
        }
    }
}

/// Why the handle could not do something.
fn refused(error: &HandleError) -> Refusal {
    match error {
        HandleError::InvalidChannel(_) => {
            let expected = "no control channel, and no point-to-point channel of another client";
            schema::refused(error.to_string(), "body.channel", expected)
        }
        HandleError::NotConnected => {
            let expected = "a client that is connected, or \"persistent\": true";
            Refusal::new(StatusCode::CONFLICT, error.to_string(), "body.client", expected)
        }
        HandleError::TooManyRetained => failed(&HubError::TooManyRetained),
        HandleError::Store => failed(&HubError::Store),
    }
}

fn no_such_client(client: &ClientId) -> Refusal {
    let what = format!("there is no client {:?}", client.as_str());
    Refusal::new(StatusCode::NOT_FOUND, what, "parameter client", "a client that is connected or remembered")
}

/// All routes, for those who describe them.
fn all_routes() -> &'static [Route] {
    ROUTES
}
