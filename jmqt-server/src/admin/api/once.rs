//! Requests that are done once, however often they are sent (`Idempotency-Key`).
//!
//! An answer is kept for ten minutes, and at most [`MOST`] are. Only this node knows them, and only until it stops.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use ring::digest;
use serde_json::Value;

use super::Outcome;
use crate::admin::answer::Refusal;

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(600);
/// The most answers that are kept; beyond that, the oldest is forgotten.
const MOST: usize = 1000;

/// The owner of the admin key, and the idempotency key.
type Id = (String, String);

struct Request {
    /// The digest of the path and the body.
    digest: [u8; digest::SHA256_OUTPUT_LEN],
    /// `None` while it is being done.
    answer: Option<Value>,
}

#[derive(Default)]
struct State {
    requests: HashMap<Id, Request>,
    /// In the order in which they began.
    order: VecDeque<(Instant, Id)>,
}

/// The requests of late.
#[derive(Default)]
pub(super) struct Once(Mutex<State>);

/// The result of [`Once::begin`].
pub(super) enum Begun {
    /// It was done before, with this answer.
    Answered(Value),
    /// It is to be done now.
    Now(Turn),
}

/// A request that is being done. A failure, and a drop without an end, forget it, so that it can be sent again.
pub(super) struct Turn {
    once: Arc<Once>,
    id: Option<Id>,
}

impl Once {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request.
    pub(super) fn begin(
        self: &Arc<Self>,
        name: &str,
        key: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Begun, Refusal> {
        self.begin_at(Instant::now(), (name.to_owned(), key.to_owned()), path, body)
    }

    fn begin_at(self: &Arc<Self>, now: Instant, id: Id, path: &str, body: &[u8]) -> Result<Begun, Refusal> {
        let mut context = digest::Context::new(&digest::SHA256);
        [path.as_bytes(), b"\n", body].into_iter().for_each(|part| context.update(part));
        let mut digest = [0; digest::SHA256_OUTPUT_LEN];
        digest.copy_from_slice(context.finish().as_ref());
        let mut state = self.lock();
        state.forget_old(now);
        if let Some(request) = state.requests.get(&id) {
            let place = "header Idempotency-Key";
            if request.digest != digest {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                let what = "this idempotency key was used for another request";
                return Err(Refusal::new(status, what, place, "the same request, or another key"));
            }
            return match &request.answer {
                Some(answer) => Ok(Begun::Answered(answer.clone())),
                None => {
                    let what = "the request with this idempotency key is being done";
                    Err(Refusal::new(StatusCode::CONFLICT, what, place, "another attempt, later")
                        .retry_after(1))
                }
            };
        }
        state.requests.insert(id.clone(), Request { digest, answer: None });
        state.order.push_back((now, id.clone()));
        Ok(Begun::Now(Turn { once: Arc::clone(self), id: Some(id) }))
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front() {
            if now.duration_since(*since) < KEPT && self.order.len() < MOST {
                return;
            }
            if let Some((_, id)) = self.order.pop_front() {
                self.requests.remove(&id);
            }
        }
    }
}

impl Turn {
    /// Keeps the answer. A refusal is not kept.
    pub(super) fn end(mut self, outcome: &Outcome) {
        let Ok(answer) = outcome else { return };
        if let Some(id) = self.id.take()
            && let Some(request) = self.once.lock().requests.get_mut(&id)
        {
            request.answer = Some(answer.clone());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let mut state = self.once.lock();
        state.requests.remove(&id);
        state.order.retain(|(_, other)| *other != id);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(key: &str) -> Id {
        ("alice".to_owned(), key.to_owned())
    }

    fn status(begun: Result<Begun, Refusal>) -> u16 {
        match begun {
            Ok(Begun::Answered(_)) => 200,
            Ok(Begun::Now(turn)) => {
                turn.end(&Ok(json!(1)));
                201
            }
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn a_request_is_done_once_and_another_with_its_key_is_refused() {
        let (once, now) = (Arc::new(Once::default()), Instant::now());
        let begin = |key: &str, body: &[u8]| once.begin_at(now, id(key), "/p", body);
        let Ok(Begun::Now(turn)) = begin("1", b"a") else { panic!("it is new") };
        assert_eq!(status(begin("1", b"a")), 409, "it is being done");
        turn.end(&Ok(json!(7)));
        assert!(matches!(begin("1", b"a"), Ok(Begun::Answered(answer)) if answer == json!(7)));
        assert_eq!((status(begin("1", b"b")), status(begin("2", b"a"))), (422, 201));
        assert_eq!(status(once.begin_at(now, ("bob".to_owned(), "1".to_owned()), "/p", b"a")), 201);
        assert_eq!(status(once.begin_at(now + KEPT, id("1"), "/p", b"b")), 201, "it is forgotten");
    }

    #[test]
    fn a_request_that_was_refused_or_given_up_can_be_sent_again() {
        let (once, now) = (Arc::new(Once::default()), Instant::now());
        let begin = || once.begin_at(now, id("1"), "/p", b"a");
        let Ok(Begun::Now(turn)) = begin() else { panic!("it is new") };
        turn.end(&Err(Refusal::new(StatusCode::CONFLICT, "", "", "")));
        let Ok(Begun::Now(turn)) = begin() else { panic!("it was refused") };
        drop(turn);
        assert_eq!(status(begin()), 201);
    }

    #[test]
    fn the_number_of_kept_answers_is_limited() {
        let (once, now) = (Arc::new(Once::default()), Instant::now());
        for key in 0..2 * MOST {
            assert_eq!(status(once.begin_at(now, id(&key.to_string()), "/p", b"a")), 201);
        }
        let state = once.lock();
        assert!(state.requests.len() <= MOST && state.order.len() == state.requests.len());
    }
}
