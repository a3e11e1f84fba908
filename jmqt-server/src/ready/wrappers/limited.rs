//! Limits how many questions a validator has at once.

use std::sync::Arc;

use crate::log_limit::LogLimit;
use crate::ready::gate::Gate;

/// A validator, or a source of a [`Login`](super::super::Login), that is asked at most so many questions at once. Further ones wait in order of arrival, at
/// most `most_waiting`; what comes then is refused at once with SERVER_ERROR, "try again later", and logged at most once a minute. For
/// a database, say, that knows 20 connections:
///
/// ```
/// use jmqt_server::prelude::*;
/// use jmqt_server::ready::Limited;
///
/// struct Database;
///
/// #[async_trait]
/// impl SubValidator for Database {
///     async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
///         // Asks the database.
/// #       let _ = request;
///         Ok(Verdict::Allow)
///     }
/// }
///
/// # fn build(builder: jmqt_server::ServerBuilder) -> jmqt_server::ServerBuilder {
/// builder.validate_sub(Limited::new(Database, 20, 1000))
/// # }
/// ```
///
/// The time in the queue counts for VALIDATOR_TIMEOUT_SECONDS. Clones share the limit. An authentication exchange of MQTT 5 is not
/// offered.
#[derive(Debug)]
pub struct Limited<T> {
    inner: Arc<T>,
    shared: Arc<Shared>,
}

struct Shared {
    gate: Gate,
    log: LogLimit,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.gate.fmt(f)
    }
}

impl<T> Clone for Limited<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), shared: Arc::clone(&self.shared) }
    }
}

impl<T> Limited<T> {
    const REASON: &'static str = "too many questions wait for a validator";

    /// Asks this validator at most `at_once` questions at once (at least 1), and lets `most_waiting` wait.
    #[must_use]
    pub fn new(validator: T, at_once: usize, most_waiting: usize) -> Self {
        let shared = Shared { gate: Gate::new(at_once, most_waiting), log: LogLimit::new() };
        Self { inner: Arc::new(validator), shared: Arc::new(shared) }
    }

    async fn guard<R>(&self, question: impl Future<Output = R> + Send) -> Option<R> {
        let Some(_turn) = self.shared.gate.enter().await else {
            if let Some(left_out) = self.shared.log.permit() {
                let validator = std::any::type_name::<T>();
                tracing::warn!(target: "jmqt::app", validator, left_out, "Too many questions wait for a validator; refused");
            }
            return None;
        };
        Some(question.await)
    }
}

super::guarded!(Limited);
