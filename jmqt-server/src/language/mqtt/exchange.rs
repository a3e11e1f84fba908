//! Authentication exchanges with a client (4.12).

use std::ops::ControlFlow;

use jmqt_core::StatusCode;
use jmqt_mqtt::{Auth, Packet, PacketType, Property, PropertyBuf, ReasonCode};

use super::{fitting, of_packet};
use crate::connection::Flow;
use crate::context::Shared;
use crate::session::verbs::{ExchangePacket, ExchangeStep, ExchangeTurn};
use crate::session::{Session, verbs};
use crate::validators::{AuthExchange, Grant};

/// The packets that a client may send in an exchange. SCRAM needs two.
const MAX_PACKETS: u8 = 10;

/// An exchange with a client.
pub(super) struct Exchange {
    with: Box<dyn AuthExchange>,
    /// The packets of the client so far.
    packets: u8,
}

/// The authentication method of a client, and the exchange in which it authenticates again.
pub(super) struct Authentication {
    pub(super) method: Box<str>,
    pub(super) exchange: Option<Exchange>,
}

impl Authentication {
    pub(super) fn new(method: &str) -> Self {
        Self { method: method.into(), exchange: None }
    }
}

/// The answer to a packet of the client.
pub(super) enum Answer {
    Challenge(Vec<u8>),
    Granted(Box<Grant>, Option<Vec<u8>>),
    Refused(StatusCode),
    /// The client has sent as many packets as it may.
    TooLong,
}

impl Exchange {
    pub(super) fn new(with: Box<dyn AuthExchange>) -> Self {
        Self { with, packets: 0 }
    }

    /// Passes a packet of the client to the application.
    pub(super) async fn answer(
        &mut self,
        shared: &Shared,
        session: &mut Session,
        packet: ExchangePacket<'_>,
    ) -> Flow<Answer> {
        let turn = if self.packets == 0 { ExchangeTurn::First } else { ExchangeTurn::Next };
        self.packets += 1;
        let step = verbs::exchange(shared, session, &mut *self.with, packet, turn).await?;
        ControlFlow::Continue(match step {
            ExchangeStep::Challenge(_) if self.packets >= MAX_PACKETS => Answer::TooLong,
            ExchangeStep::Challenge(data) => Answer::Challenge(data),
            ExchangeStep::Granted(grant, data) => Answer::Granted(Box::new(grant), data),
            ExchangeStep::Refused(status) => Answer::Refused(status),
        })
    }
}

/// The client does not accept a packet of this size.
pub(super) struct TooLarge;

/// Sends AUTH.
pub(super) fn send(
    session: &mut Session,
    reason: ReasonCode,
    method: &str,
    data: Option<&[u8]>,
) -> Result<(), TooLarge> {
    let mut properties = PropertyBuf::new();
    push(&mut properties, method, data);
    let packet = Packet::Auth(Auth { reason, properties: of_packet(&properties, PacketType::Auth) });
    let bytes = fitting(session, &packet).ok_or(TooLarge)?;
    let is_full = session.outbox.answer(bytes);
    session.answered(is_full);
    Ok(())
}

/// Adds the method and the data.
pub(super) fn push(properties: &mut PropertyBuf, method: &str, data: Option<&[u8]>) {
    let own = [Some(Property::AuthenticationMethod(method)), data.map(Property::AuthenticationData)];
    for property in own.into_iter().flatten() {
        // They are within the limits of a property.
        let _ = properties.push(property);
    }
}
