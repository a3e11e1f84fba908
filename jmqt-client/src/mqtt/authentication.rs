//! Enhanced authentication of MQTT 5: the client's answers to the server's challenges (4.12).

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jmqt_mqtt::{
    Auth, EncodeError, Packet, PacketType, Place, Properties, Property, PropertyBuf, ReasonCode, Sender,
    Version,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Error;

type BoxError = Box<dyn StdError + Send + Sync>;

/// The client's part of one authentication exchange: of a new connection, or of one that
/// [authenticates again](super::Client::reauthenticate). [`Options::authenticate`](super::Options::authenticate) has an example.
///
/// Data that a packet does not have is empty here, and empty data is not sent. Data has at most 65,535 bytes.
pub trait AuthExchange: Send + 'static {
    /// The data of the first packet. Default: none.
    ///
    /// # Errors
    /// The connection is not made, and tried again as after a lost one. Of a session that is there, nothing changes.
    ///
    /// # Cancel safety
    /// The future is dropped at the limit of its connection (`connect_timeout`, within a session `request_timeout`).
    fn start(&mut self) -> impl Future<Output = Result<Vec<u8>, BoxError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// The answer to a challenge.
    ///
    /// # Errors
    /// The connection is closed, and another one is tried as after a lost one.
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    fn answer(&mut self, challenge: &[u8]) -> impl Future<Output = Result<Vec<u8>, BoxError>> + Send;

    /// The server has accepted; `data` may prove that it is the right one. Default: it is accepted.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    fn finish(&mut self, data: &[u8]) -> Result<(), BoxError> {
        let _ = data;
        Ok(())
    }
}

/// What an exchange sends next, and the exchange.
pub(super) type Step = Pin<Box<dyn Future<Output = (Box<dyn Exchange>, Result<Vec<u8>, BoxError>)> + Send>>;

/// An [`AuthExchange`] of any type.
pub(super) trait Exchange: Send {
    fn start(self: Box<Self>) -> Step;
    fn answer(self: Box<Self>, challenge: Vec<u8>) -> Step;
    fn finish(&mut self, data: &[u8]) -> Result<(), BoxError>;
}

impl<E: AuthExchange> Exchange for E {
    fn start(mut self: Box<Self>) -> Step {
        Box::pin(async {
            let data = AuthExchange::start(&mut *self).await;
            (self as Box<dyn Exchange>, data)
        })
    }

    fn answer(mut self: Box<Self>, challenge: Vec<u8>) -> Step {
        Box::pin(async move {
            let data = AuthExchange::answer(&mut *self, &challenge).await;
            (self as Box<dyn Exchange>, data)
        })
    }

    fn finish(&mut self, data: &[u8]) -> Result<(), BoxError> {
        AuthExchange::finish(self, data)
    }
}

/// The method, and what begins its exchanges.
#[derive(Clone)]
pub(crate) struct Authentication {
    pub(super) method: Arc<str>,
    begin: Arc<dyn Fn() -> Box<dyn Exchange> + Send + Sync>,
}

impl Authentication {
    pub(super) fn new<E: AuthExchange>(
        method: String,
        begin: impl Fn() -> E + Send + Sync + 'static,
    ) -> Self {
        Self { method: method.into(), begin: Arc::new(move || Box::new(begin())) }
    }

    pub(super) fn start(&self) -> Step {
        (self.begin)().start()
    }

    /// Adds method and data to the properties of a packet.
    pub(super) fn push(&self, data: &[u8], to: &mut PropertyBuf) -> Result<(), EncodeError> {
        to.push(Property::AuthenticationMethod(&self.method))?;
        if data.is_empty() { Ok(()) } else { to.push(Property::AuthenticationData(data)) }
    }

    /// Appends an AUTH.
    pub(super) fn packet(
        &self,
        reason: ReasonCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut properties = PropertyBuf::new();
        self.push(data, &mut properties)?;
        let properties = properties.for_place(Place::Packet(PacketType::Auth), Sender::Client)?;
        Packet::Auth(Auth { reason, properties }).encode(Version::V5, out)
    }

    /// The data of a packet, which must have the method [MQTT-4.12.0-5].
    pub(super) fn data<'p>(&self, properties: Properties<'p>) -> Result<&'p [u8], String> {
        match properties.authentication_method() {
            Some(method) if *method == *self.method => {
                Ok(properties.authentication_data().unwrap_or_default())
            }
            _ => Err("the server does not name our authentication method in its answer".to_owned()),
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authentication").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Someone who waits for the end of an exchange within the session.
pub(super) type Done = oneshot::Sender<Result<(), Error>>;

/// An exchange within a session.
pub(super) struct Reauthentication {
    /// What is sent next, once that is known.
    pub(super) step: Option<Step>,
    /// In the meantime.
    exchange: Option<Box<dyn Exchange>>,
    is_begun: bool,
    pub(super) by: Instant,
    done: Vec<Done>,
}

impl Reauthentication {
    pub(super) fn begin(authentication: &Authentication, by: Instant, done: Vec<Done>) -> Self {
        Self { step: Some(authentication.start()), exchange: None, is_begun: false, by, done }
    }

    /// The application has answered: the packet that follows. `Ok(false)`: nothing was sent yet, and it is over.
    pub(super) fn answered(
        &mut self,
        authentication: &Authentication,
        (exchange, data): (Box<dyn Exchange>, Result<Vec<u8>, BoxError>),
        out: &mut Vec<u8>,
    ) -> Result<bool, Arc<dyn StdError + Send + Sync>> {
        (self.step, self.exchange) = (None, Some(exchange));
        let reason = match self.is_begun {
            true => ReasonCode::CONTINUE_AUTHENTICATION,
            false => ReasonCode::RE_AUTHENTICATE, // [MQTT-4.12.1-1]
        };
        let written = data.and_then(|data| Ok(authentication.packet(reason, &data, out)?));
        match written {
            Ok(()) => {
                self.is_begun = true;
                Ok(true)
            }
            Err(error) if self.is_begun => Err(error.into()),
            Err(error) => {
                self.tell(&Err(Error::Authentication(error.into())));
                Ok(false)
            }
        }
    }

    /// AUTH came. `Ok(true)`: the exchange is over.
    pub(super) fn came(&mut self, reason: ReasonCode, data: &[u8]) -> Result<bool, Came> {
        let Some(mut exchange) = self.exchange.take() else {
            return Err(Came::Protocol("AUTH has no place here"));
        };
        match reason {
            ReasonCode::CONTINUE_AUTHENTICATION => {
                self.step = Some(exchange.answer(data.to_vec()));
                Ok(false)
            }
            ReasonCode::SUCCESS => {
                exchange.finish(data).map_err(|error| Came::Refused(error.into()))?;
                self.tell(&Ok(()));
                Ok(true)
            }
            _ => Err(Came::Protocol("AUTH has a reason code that only a client sends")),
        }
    }

    fn tell(&mut self, outcome: &Result<(), Error>) {
        for done in self.done.drain(..) {
            // Nobody needs to wait for it.
            let _ = done.send(outcome.clone());
        }
    }
}

/// Why an AUTH ends the connection.
pub(super) enum Came {
    Protocol(&'static str),
    Refused(Arc<dyn StdError + Send + Sync>),
}
