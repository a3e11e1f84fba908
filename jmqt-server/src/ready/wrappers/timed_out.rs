//! A time limit for one validator.

use std::sync::Arc;
use std::time::Duration;

use crate::log_limit::LogLimit;

/// A validator, or a source of a [`Login`](super::super::Login), with a time limit of its own, shorter than VALIDATOR_TIMEOUT_SECONDS. What has no
/// answer in this time is refused with SERVER_ERROR, "try again later", and logged at most once a minute; the future of the validator is
/// dropped.
///
/// ```
/// use std::time::Duration;
///
/// use jmqt_server::prelude::*;
/// use jmqt_server::ready::TimedOut;
///
/// struct Database;
///
/// #[async_trait]
/// impl PubValidator for Database {
///     async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
///         // Asks the database.
/// #       let _ = request;
///         Ok(PubVerdict::Allow)
///     }
/// }
///
/// # fn build(builder: jmqt_server::ServerBuilder) -> jmqt_server::ServerBuilder {
/// builder.validate_pub(TimedOut::new(Database, Duration::from_millis(500)))
/// # }
/// ```
///
/// An authentication exchange of MQTT 5 is not offered.
#[derive(Debug)]
pub struct TimedOut<T> {
    inner: Arc<T>,
    time: Duration,
    log: Arc<Limit>,
}

struct Limit(LogLimit);

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Limit(..)")
    }
}

impl<T> Clone for TimedOut<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), time: self.time, log: Arc::clone(&self.log) }
    }
}

impl<T> TimedOut<T> {
    const REASON: &'static str = "a validator did not answer in time";

    /// Gives this validator so much time for an answer.
    #[must_use]
    pub fn new(validator: T, time: Duration) -> Self {
        Self { inner: Arc::new(validator), time, log: Arc::new(Limit(LogLimit::new())) }
    }

    async fn guard<R>(&self, question: impl Future<Output = R> + Send) -> Option<R> {
        let answer = tokio::time::timeout(self.time, question).await.ok();
        if answer.is_none()
            && let Some(left_out) = self.log.0.permit()
        {
            let (validator, time) = (std::any::type_name::<T>(), self.time);
            tracing::warn!(target: "jmqt::app", validator, ?time, left_out, "A validator did not answer in time; refused");
        }
        answer
    }
}

super::guarded!(TimedOut);
