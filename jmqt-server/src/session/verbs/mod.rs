//! What a client can ask for, in whatever language.
//!
//! A verb asks its validator, calls the hub, and returns what came of it, or the status that the request is refused with. It
//! knows no packets: a room under `language` makes a packet a verb's arguments, and the result an answer.
//! `ControlFlow::Break` is the end of the connection.

mod authenticate;
mod control;
mod leave;
mod open;
mod publish;
mod subscribe;

pub(crate) use authenticate::authenticate;
pub(crate) use control::control;
pub(crate) use leave::leave;
pub(crate) use open::{NotOpened, Opening, open, start};
pub(crate) use publish::{Publication, acknowledge, publish, refuse_in_order};
pub(crate) use subscribe::{subscribe, unsubscribe};

pub(crate) use crate::outbox::Redelivery;
pub(crate) use crate::store::{PublisherId, parse_number};

use jmqt_core::StatusCode;

use super::Session;
use crate::validators::Verdict;

/// What a verdict means for the acknowledgement.
fn status_of(session: &Session, what: &'static str, verdict: Option<Verdict>) -> StatusCode {
    match verdict {
        Some(Verdict::Allow) => StatusCode::OK,
        Some(Verdict::Refuse(status)) if !status.is_ok() => status,
        Some(Verdict::Refuse(_)) => {
            session.validator_mistake(what, &"it refused with status OK");
            StatusCode::SERVER_ERROR
        }
        None => StatusCode::SERVER_ERROR,
    }
}
