//! One POST request: connections, time limits, repetition, the circuit breaker.

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jmqt_log as logging;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::rustls;
use tower_service::Service;

use super::super::gate::Gate;
use super::super::unavailable::Unavailable;
use super::HttpError;
use super::breaker::{Breaker, Change, FAILURES, jittered};
use crate::log_limit::LogLimit;
use crate::watched::Watched;

/// The longest answer, and the longest head of one.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long a connection is kept without a question.
const IDLE: Duration = Duration::from_secs(30);
/// The middle of the pause before a question is repeated.
const PAUSE: Duration = Duration::from_millis(100);

/// How questions are asked.
pub(super) struct Options {
    pub(super) url: Uri,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) at_once: usize,
    pub(super) most_waiting: usize,
    pub(super) retries: u32,
}

/// Whether a question may reach the backend twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing there.
    Harmless,
    /// It may cause something: it is repeated only if the backend has not seen it.
    Unseen,
}

/// How often what has happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HttpCounters {
    /// Questions that the backend answered.
    pub answered: u64,
    /// Questions that it did not answer in time, or not with an answer that can be used.
    pub failed: u64,
    /// Questions that were not sent, because it had not answered before, or too many were waiting.
    pub not_sent: u64,
}

pub(super) struct Backend {
    options: Options,
    /// The URL as it may be logged.
    name: String,
    client: Client<Limit<HttpsConnector<HttpConnector>>, Full<Bytes>>,
    secret: Option<Watched<HeaderValue>>,
    gate: Gate,
    breaker: Breaker,
    failures: LogLimit,
    busy: LogLimit,
    answered: AtomicU64,
    failed: AtomicU64,
    not_sent: AtomicU64,
}

impl Backend {
    pub(super) fn new(
        options: Options,
        ca: Option<&Path>,
        secret: Option<Watched<HeaderValue>>,
    ) -> Result<Self, HttpError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        let https = HttpsConnectorBuilder::new().with_tls_config(trust(&options, ca)?).https_or_http();
        let connector =
            Limit { connector: https.enable_http1().wrap_connector(tcp), time: options.connect_timeout };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(options.at_once)
            .http1_max_buf_size(MAX_ANSWER_BYTES)
            .build(connector);
        Ok(Self {
            name: shown(&options.url),
            client,
            secret,
            gate: Gate::new(options.at_once, options.most_waiting),
            breaker: Breaker::new(),
            failures: LogLimit::new(),
            busy: LogLimit::new(),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
            options,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    pub(super) fn counters(&self) -> HttpCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HttpCounters {
            answered: read(&self.answered),
            failed: read(&self.failed),
            not_sent: read(&self.not_sent),
        }
    }

    /// Asks, and makes an answer of what comes back. What goes wrong is logged here, and `Unavailable` for the caller.
    pub(super) async fn ask<T>(
        &self,
        question: Bytes,
        repeat: Repeat,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Unavailable> {
        let start = Instant::now();
        let end = start + self.options.timeout;
        if self.breaker.is_resting(start) {
            return Err(self.not_sent("it has not answered several times"));
        }
        let Ok(Some(_turn)) = timeout_at(end, self.gate.enter()).await else {
            if let Some(left_out) = self.busy.permit() {
                let backend = &self.name;
                tracing::warn!(target: "jmqt::app", backend, left_out, "Too many questions wait for the HTTP backend; refused");
            }
            return Err(self.not_sent("too many questions wait for it"));
        };
        let asked = Instant::now();
        let Some(pass) = self.breaker.pass(asked) else {
            return Err(self.not_sent("it has not answered several times"));
        };
        let outcome = match timeout_at(end, self.repeated(question, repeat)).await {
            Ok(Ok(body)) => read(&body).map_err(Failure::Unusable),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Late(self.options.timeout)),
        };
        let failure = match outcome {
            Ok(answer) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.tell(&pass.succeeded(), "");
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        let reason = failure.to_string();
        // Of a question that had waited for most of its time it is not known whether the backend would have answered.
        let waited_long = matches!(failure, Failure::Late(_)) && asked - start > self.options.timeout / 2;
        let change = match failure.is_of_question() {
            true => pass.succeeded(),
            false if waited_long => Change::None,
            false => pass.failed(Instant::now()),
        };
        self.tell(&change, &reason);
        if change == Change::None
            && !self.breaker.is_open()
            && let Some(left_out) = self.failures.permit()
        {
            let backend = &self.name;
            tracing::warn!(target: "jmqt::app", backend, left_out, %reason, "No answer from the HTTP backend; refused");
        }
        Err(Unavailable::because(reason))
    }

    fn not_sent(&self, reason: &str) -> Unavailable {
        self.not_sent.fetch_add(1, Ordering::Relaxed);
        Unavailable::because(format!("the HTTP backend was not asked: {reason}"))
    }

    /// Logs that the breaker has opened or closed.
    fn tell(&self, change: &Change, reason: &str) {
        let backend = &self.name;
        match change {
            Change::None => {}
            Change::Opened => tracing::error!(
                target: "jmqt::app", backend, reason,
                "The HTTP backend has not answered {FAILURES} times in a row: what it decides about is refused, \"try again later\", \
                    until it answers"
            ),
            Change::Closed => tracing::info!(target: "jmqt::app", backend, "The HTTP backend answers again"),
        }
    }

    /// Asks, and once more after a failure that can be repeated.
    async fn repeated(&self, question: Bytes, repeat: Repeat) -> Result<Bytes, Failure> {
        let mut left = self.options.retries;
        loop {
            let failure = match self.once(question.clone()).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            let may_repeat = match failure {
                Failure::Connect(_) | Failure::Status(StatusCode::SERVICE_UNAVAILABLE) => true,
                Failure::Closed(_) => repeat == Repeat::Harmless,
                _ => false,
            };
            if !may_repeat || left == 0 {
                return Err(failure);
            }
            left -= 1;
            sleep(jittered(PAUSE)).await;
        }
    }

    async fn once(&self, question: Bytes) -> Result<Bytes, Failure> {
        let json = HeaderValue::from_static("application/json");
        let mut request = Request::post(self.options.url.clone())
            .header(CONTENT_TYPE, json.clone())
            .header(ACCEPT, json)
            .body(Full::new(question))
            .map_err(|error| Failure::Unusable(error.to_string()))?;
        if let Some(secret) = &self.secret {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::clone(&secret.get()));
        }
        let response = self.client.request(request).await.map_err(|error| {
            let text = logging::with_causes(&error);
            if error.is_connect() { Failure::Connect(text) } else { Failure::Closed(text) }
        })?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::TooLong,
            false => Failure::Closed(logging::with_causes(&*error)),
        })?;
        Ok(body.to_bytes())
    }
}

/// Why there is no answer. Nothing of what the backend has sent is in it, which might repeat a password.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the connection ended, or what came is not HTTP: {0}")]
    Closed(String),
    #[error("it answered {0}{hint}", hint = hint(*.0))]
    Status(StatusCode),
    #[error("it did not answer within {0:?}")]
    Late(Duration),
    #[error("its answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    #[error("its answer cannot be used: {0}")]
    Unusable(String),
}

impl Failure {
    /// Whether it says nothing about other questions: a client that sends something odd must not open the breaker for all.
    fn is_of_question(&self) -> bool {
        matches!(self, Self::Status(status) if status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS)
    }
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        status if status.is_redirection() => " (redirects are not followed)",
        StatusCode::NO_CONTENT => " (only 200 with a result is an answer)",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            " (is the secret right? A refusal is 200 with {\"result\":\"deny\"})"
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => " (is the URL right? It receives POST)",
        _ => "",
    }
}

/// A URL without its query, which may have a secret.
fn shown(url: &Uri) -> String {
    format!(
        "{}://{}{}",
        url.scheme_str().unwrap_or("http"),
        url.authority().map_or("", |it| it.as_str()),
        url.path()
    )
}

/// The CAs of the system, or those of a file. Not read for `http`.
fn trust(options: &Options, ca: Option<&Path>) -> Result<rustls::ClientConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Trust(error.to_string()))?;
    if options.url.scheme_str() != Some("https") {
        return Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    }
    let Some(path) = ca else {
        let builder = builder.with_native_roots();
        return Ok(builder.map_err(|error| HttpError::Trust(error.to_string()))?.with_no_client_auth());
    };
    let wrong = |error: &dyn fmt::Display| HttpError::Trust(format!("{}: {error}", path.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
        roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"expected certificates in PEM, found none"));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A time limit for the whole of a connect, with its TLS handshake. The client goes on with it in a task of its own when nobody waits
/// for it any more, so it must end by itself.
#[derive(Clone)]
struct Limit<C> {
    connector: C,
    time: Duration,
}

type ConnectError = Box<dyn std::error::Error + Send + Sync>;

impl<C> Service<Uri> for Limit<C>
where
    C: Service<Uri, Error = ConnectError>,
    C::Response: Read + Write + Connection + Unpin + Send + 'static,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (connecting, time) = (self.connector.call(url), self.time);
        Box::pin(async move {
            let late = |_| ConnectError::from(format!("not connected after {time:?}"));
            timeout(time, connecting).await.map_err(late)?
        })
    }
}
