//! Calls validators and turns their errors and panics into values (protocol.md 2.17).

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::BoxError;
use crate::log_limit::log_limited;

/// The result of calling a validator.
pub(crate) enum Asked<T> {
    /// The validator answered.
    Answer(T),
    /// The validator returned an error.
    Failed(BoxError),
    /// The validator panicked.
    Panicked(String),
    /// The validator did not answer in time, and its future was dropped.
    TimedOut,
}

impl<T> Asked<T> {
    /// The answer, or `None` after logging the failure, at most once a minute for each validator and kind of failure. Failures
    /// are logged only here. `remote`: the address of the connection, if the question is about one.
    pub(crate) fn logged(self, what: &'static str, client: &str, remote: Option<SocketAddr>) -> Option<T> {
        let remote = remote.map(tracing::field::display);
        match self {
            Self::Answer(answer) => return Some(answer),
            Self::Failed(error) => {
                log_limited!(error, each: what, target: "jmqt::app", client, remote, %error, "{what} failed");
            }
            Self::Panicked(message) => {
                log_limited!(error, each: what, target: "jmqt::app", client, remote, panic = message, "{what} panicked");
            }
            Self::TimedOut => {
                log_limited!(error, each: what, target: "jmqt::app", client, remote, "{what} did not answer in time");
            }
        }
        None
    }
}

/// A validator's future, boxed by `async_trait`.
pub(crate) type Question<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// Calls a validator. A panic before it returns its future is handled as a later panic.
pub(crate) fn asking<'a, T: 'a>(ask: impl FnOnce() -> Question<'a, T>) -> Question<'a, T> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(question) => question,
        Err(panic) => Box::pin(async move { resume_unwind(panic) }),
    }
}

/// Drops a validator's future, whose `Drop` may panic.
pub(crate) fn let_go<T>(what: &'static str, question: Question<'_, T>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(question))) {
        let message = panic_message(&*panic);
        log_limited!(error, each: what, target: "jmqt::app", message, "{what} panicked while the server dropped its future");
    }
}

/// Polls a future that may panic. After `Ready` the future has been dropped, even if its `Drop` panicked too, and
/// must not be polled again.
pub(crate) fn poll_contained<F: Future>(
    mut future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, String>> {
    let polled = catch_unwind(AssertUnwindSafe(|| match future.as_mut().as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Pending,
    }));
    let ended = match polled {
        Ok(Poll::Pending) => return Poll::Pending,
        Ok(Poll::Ready(output)) => Ok(output),
        Err(panic) => Err(panic_message(&*panic)),
    };
    match catch_unwind(AssertUnwindSafe(|| future.set(None))) {
        Ok(()) => Poll::Ready(ended),
        Err(panic) => Poll::Ready(ended.and_then(|_| Err(panic_message(&*panic)))),
    }
}

/// Polls a validator once. After `Ready` it must not be polled again.
pub(crate) fn poll_guarded<T>(question: &mut Question<'_, T>, cx: &mut Context<'_>) -> Poll<Asked<T>> {
    // The future shares no state with the server, and is never polled again after a panic.
    match catch_unwind(AssertUnwindSafe(|| question.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(answer))) => Poll::Ready(Asked::Answer(answer)),
        Ok(Poll::Ready(Err(error))) => Poll::Ready(Asked::Failed(error)),
        Err(panic) => Poll::Ready(Asked::Panicked(panic_message(&*panic))),
    }
}

/// Polls a validator for the first time. Most validators answer at once, which needs no timer and no waker; otherwise
/// the caller must poll again.
pub(crate) fn poll_at_once<T>(question: &mut Question<'_, T>) -> Poll<Asked<T>> {
    poll_guarded(question, &mut Context::from_waker(Waker::noop()))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
