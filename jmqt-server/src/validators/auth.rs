//! `auth`: who are you? (§7.a, §10)

use std::sync::Arc;

use async_trait::async_trait;
use jmqt_core::{ClientId, InvalidClientId, Payload};

use super::attached::{SessionRef, session_getters};
use super::exchange::{AuthExchange, ExchangeRequest};
use super::grant::AuthVerdict;
use super::mqtt_connect::MqttConnect;
use super::{BoxError, UnexpectedData, read_json};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;
use crate::tls::ClientCertificate;
use crate::upgrade::Upgrade;

/// An `auth` packet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuthRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// `dt`: the authentication data in the format of the application. Never log it.
    pub data: Payload<'a>,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
    upgrade: Option<&'a Arc<Upgrade>>,
    certificate: Option<&'a ClientCertificate>,
    mqtt: Option<&'a MqttConnect<'a>>,
}

session_getters!(AuthRequest);

impl<'a> AuthRequest<'a> {
    /// The HTTP request that began the WebSocket: path, query, headers, cookies. `None` for a connection over TCP,
    /// and within a session, because it is dropped when the session begins.
    #[must_use]
    pub const fn upgrade(&self) -> Option<&'a Arc<Upgrade>> {
        self.upgrade
    }

    /// The certificate with which the client proved its identity in the TLS handshake (SSL_CLIENT_CERT). `None` without
    /// TLS, and if the client was not asked for one or has none.
    #[must_use]
    pub const fn certificate(&self) -> Option<&'a ClientCertificate> {
        self.certificate
    }

    /// The CONNECT packet; `None` if the client speaks JMQT.
    #[must_use]
    pub const fn mqtt(&self) -> Option<&'a MqttConnect<'a>> {
        self.mqtt
    }
}

impl<'a> AuthRequest<'a> {
    /// Parses the data as JSON of this type.
    ///
    /// # Errors
    /// [`UnexpectedData`](crate::UnexpectedData) if the data has another type. Refuse with
    /// [`StatusCode::INVALID_PACKET`](crate::StatusCode::INVALID_PACKET).
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, UnexpectedData> {
        read_json(self.data)
    }

    /// A client id for a user of this name: of a JMQT client the name itself; of an MQTT client the id that it asks for. If
    /// it asks for none, the name and a random number: several clients with the same id would end each other's
    /// connections.
    ///
    /// This does not check whether the user may have the id that the client asks for.
    ///
    /// # Errors
    /// [`InvalidClientId`] if it is empty, longer than 256 bytes, or has surrounding white space.
    pub fn client_id(&self, user: &str) -> Result<ClientId, InvalidClientId> {
        match self.mqtt {
            None => ClientId::parse(user),
            Some(mqtt) if !mqtt.client_id.is_empty() => ClientId::parse(mqtt.client_id),
            Some(_) => {
                let number = getrandom::u64().map_err(|_| InvalidClientId)?;
                ClientId::parse(&format!("{user}-{number:016x}"))
            }
        }
    }
}

impl<'a> AuthRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        data: Payload<'a>,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
        upgrade: Option<&'a Arc<Upgrade>>,
        mqtt: Option<&'a MqttConnect<'a>>,
    ) -> Self {
        Self { connection, data, server, session, upgrade, certificate: None, mqtt }
    }

    pub(crate) const fn with_certificate(mut self, certificate: Option<&'a ClientCertificate>) -> Self {
        self.certificate = certificate;
        self
    }
}

/// Identifies a client, and gives it a token (§7.a, §7.b, §10).
///
/// Called for every `auth` packet, before and within a session.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Login(TokenIssuer);
///
/// #[async_trait]
/// impl AuthValidator for Login {
///     async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
///         #[derive(serde::Deserialize)]
///         struct Data { name: String, password: String }
///         let Ok(Data { name, password }) = request.json() else {
///             return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, "expected name and password"));
///         };
///         if (name.as_str(), password.as_str()) != ("alice", "secret") {
///             return Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "wrong name or password"));
///         }
///         Ok(self.0.grant(ClientId::parse(&name)?)?)
///     }
/// }
/// ```
#[async_trait]
pub trait AuthValidator: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError>;

    /// Begins an exchange of challenges and responses with an MQTT 5 client that names an authentication method (MQTT 5.0,
    /// 4.12); [`AuthExchange`] has an example. `None`: this method is not offered, which is the default for all of them.
    /// Called when the client connects, in place of [`validate_auth`](Self::validate_auth), and when it authenticates again
    /// within its session.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) ends the connection.
    ///
    /// # Cancel safety
    /// As [`validate_auth`](Self::validate_auth).
    async fn begin_exchange(
        &self,
        request: &ExchangeRequest<'_>,
    ) -> Result<Option<Box<dyn AuthExchange>>, BoxError> {
        let _ = request;
        Ok(None)
    }
}
