//! Enhanced authentication of MQTT 5: challenges and responses, when a client connects or within its session (MQTT 5.0,
//! 4.12).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::BoxError;
use super::attached::{SessionRef, session_getters};
use super::grant::AuthVerdict;
use super::mqtt_connect::MqttConnect;
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;
use crate::tls::ClientCertificate;
use crate::upgrade::Upgrade;

/// A packet of an MQTT 5 client in an authentication exchange: CONNECT with an authentication method, or AUTH.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct ExchangeRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The authentication method, which is the same in all packets of a connection.
    pub method: &'a str,
    /// The authentication data. Never log it.
    pub data: Option<&'a [u8]>,
    /// The client id: the requested one, which may be empty, or that of the session. The granted client id must be the same
    /// unless it is empty.
    pub client_id: &'a str,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
    upgrade: Option<&'a Arc<Upgrade>>,
    certificate: Option<&'a ClientCertificate>,
    mqtt: Option<&'a MqttConnect<'a>>,
}

impl fmt::Debug for ExchangeRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeRequest")
            .field("connection", &self.connection)
            .field("method", &self.method)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

session_getters!(ExchangeRequest);

impl<'a> ExchangeRequest<'a> {
    /// The CONNECT packet. `None`: the client has a session, and authenticates again.
    #[must_use]
    pub const fn mqtt(&self) -> Option<&'a MqttConnect<'a>> {
        self.mqtt
    }

    /// As [`AuthRequest::upgrade`](crate::AuthRequest::upgrade).
    #[must_use]
    pub const fn upgrade(&self) -> Option<&'a Arc<Upgrade>> {
        self.upgrade
    }

    /// As [`AuthRequest::certificate`](crate::AuthRequest::certificate).
    #[must_use]
    pub const fn certificate(&self) -> Option<&'a ClientCertificate> {
        self.certificate
    }

    pub(crate) const fn new(
        connection: ConnectionInfo,
        method: &'a str,
        data: Option<&'a [u8]>,
        client_id: &'a str,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self {
            connection,
            method,
            data,
            client_id,
            server,
            session,
            upgrade: None,
            certificate: None,
            mqtt: None,
        }
    }

    pub(crate) const fn with(
        mut self,
        upgrade: Option<&'a Arc<Upgrade>>,
        certificate: Option<&'a ClientCertificate>,
        mqtt: Option<&'a MqttConnect<'a>>,
    ) -> Self {
        (self.upgrade, self.certificate, self.mqtt) = (upgrade, certificate, mqtt);
        self
    }
}

/// The server's part of an exchange, after a packet of the client.
#[derive(Clone)]
#[non_exhaustive]
pub enum AuthStep {
    /// The client gets this data, at most 65,535 bytes, and must answer.
    Challenge(Vec<u8>),
    /// The exchange is over.
    Done {
        /// The client id and token, or the reason of the refusal. The message of a refusal is not sent.
        verdict: AuthVerdict,
        /// Data for a client that is granted access, for example the server's own proof; at most 65,535 bytes.
        data: Option<Vec<u8>>,
    },
}

impl AuthStep {
    /// Sends the client data that it must answer.
    #[must_use]
    pub fn challenge(data: impl Into<Vec<u8>>) -> Self {
        Self::Challenge(data.into())
    }

    /// Ends the exchange with the answer to the whole.
    #[must_use]
    pub const fn done(verdict: AuthVerdict) -> Self {
        Self::Done { verdict, data: None }
    }

    /// As [`done`](Self::done), with data for a client that is granted access.
    #[must_use]
    pub fn done_with(verdict: AuthVerdict, data: impl Into<Vec<u8>>) -> Self {
        Self::Done { verdict, data: Some(data.into()) }
    }
}

impl fmt::Debug for AuthStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Challenge(_) => f.write_str("Challenge(..)"),
            Self::Done { verdict, .. } => {
                f.debug_struct("Done").field("verdict", verdict).finish_non_exhaustive()
            }
        }
    }
}

/// An authentication exchange with one client of MQTT 5 (4.12);
/// [`AuthValidator::begin_exchange`](crate::AuthValidator::begin_exchange) returns it.
///
/// It is kept until the exchange is over: while the client has not answered, for TIMEOUT_SECONDS at most each time, and for
/// at most ten packets of the client. It is dropped early if the connection ends.
///
/// The example has a key for each device. The server sends random bytes, and the device answers with their HMAC, so that the
/// key does not cross the network. This is less than SCRAM: the server stores the key itself, and does not prove that it
/// has it.
///
/// ```
/// use std::collections::HashMap;
///
/// use jmqt_server::prelude::*;
/// use jmqt_server::{AuthExchange, AuthStep, ExchangeRequest};
/// use ring::hmac;
/// use ring::rand::{SecureRandom, SystemRandom};
///
/// struct Devices {
///     keys: HashMap<String, hmac::Key>,
///     tokens: TokenIssuer,
/// }
///
/// #[async_trait]
/// impl AuthValidator for Devices {
///     async fn validate_auth(&self, _: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
///         Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "use the method HMAC-SHA-256"))
///     }
///
///     async fn begin_exchange(
///         &self,
///         request: &ExchangeRequest<'_>,
///     ) -> Result<Option<Box<dyn AuthExchange>>, BoxError> {
///         if request.method != "HMAC-SHA-256" {
///             return Ok(None);
///         }
///         // A device without a key is refused at the end, so that nobody can ask which devices exist.
///         let key = self.keys.get(request.client_id).cloned();
///         let challenge = [0; 32];
///         Ok(Some(Box::new(Proof { key, tokens: self.tokens.clone(), challenge })))
///     }
/// }
///
/// struct Proof {
///     key: Option<hmac::Key>,
///     tokens: TokenIssuer,
///     challenge: [u8; 32],
/// }
///
/// #[async_trait]
/// impl AuthExchange for Proof {
///     async fn start(&mut self, _: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError> {
///         SystemRandom::new().fill(&mut self.challenge).map_err(|_| "no random bytes")?;
///         Ok(AuthStep::challenge(self.challenge))
///     }
///
///     async fn next(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError> {
///         let answer = request.data.unwrap_or_default();
///         let proves = |key: &hmac::Key| hmac::verify(key, &self.challenge, answer).is_ok();
///         Ok(AuthStep::done(match self.key.as_ref().is_some_and(proves) {
///             true => self.tokens.grant(ClientId::parse(request.client_id)?)?,
///             false => AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "wrong answer"),
///         }))
///     }
/// }
/// ```
#[async_trait]
pub trait AuthExchange: Send + Sync + 'static {
    /// Answers the first packet: CONNECT, or the AUTH with which a client authenticates again.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) ends the connection.
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends; the exchange is then dropped too.
    async fn start(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError>;

    /// Answers the client's answer to a challenge.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    async fn next(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError>;
}
