//! The requests of a client in any language.
//!
//! A verb asks its validator, calls the hub, and returns the result, or the status of the refusal. It knows no
//! packets: a room under `language` converts a packet into the arguments of a verb, and the result into an answer.
//! `ControlFlow::Break` ends the connection.

mod authenticate;
mod control;
mod leave;
mod open;
mod publish;
mod revalidate;
mod subscribe;
mod will;

pub(crate) use authenticate::{
    ExchangePacket, ExchangeStep, ExchangeTurn, RefusedAuth, authenticate, begin_exchange, exchange,
};
pub(crate) use control::control;
pub(crate) use leave::leave;
pub(crate) use open::{Language, NotOpened, Opening, open, renew, start};
pub(crate) use publish::{Publication, acknowledge, publish, refuse_in_order, release, settle};
pub(crate) use revalidate::revalidate;
pub(crate) use subscribe::{
    AskedFilter, NotSubscribed, send_matching_retained, subscribe, subscribe_to_filter, subscribe_with,
    unsubscribe,
};

pub(crate) use will::{OverdueWills, end_will, is_will_allowed, publish_due_wills};

pub(crate) use crate::hub::{MqttSession, NewWill};
pub(crate) use crate::outbox::Redelivery;
pub(crate) use crate::store::{PublisherId, parse_number};

use jmqt_core::StatusCode;

use super::Session;
use crate::validators::Verdict;

/// The status for the acknowledgement that corresponds to a verdict.
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
