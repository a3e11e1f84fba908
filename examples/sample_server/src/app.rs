//! What this application decides: who may come in, what they may do, and who hears of it.
//!
//! - A client is who its `client_name` says, and proves it afterwards with the token it was given
//!   ([`jmqt_server::tokens`]).
//! - Every JMQT client is subscribed to its own `#` channel and to `update`, where the server, and nobody
//!   else, says who comes and who goes ([`crate::presence`]).
//! - `$mySubscriptions` tells a client what it is subscribed to, `$online` who is connected.

use std::collections::BTreeMap;

use jmqt_server::tokens::TokenIssuer;
use jmqt_server::{
    AuthRequest, AuthValidator, AuthVerdict, BoxError, ChannelName, ClientId, CloseNotice, CloseNotifier,
    ConnRequest, ConnValidator, ConnVerdict, ControlHandler, ControlReply, ControlRequest, DisconnectNotice,
    DisconnectNotifier, FilterRequest, OpenNotice, OpenNotifier, Persistence, PubRequest, PubValidator,
    PubVerdict, StatusCode, SubRequest, SubValidator, UnsubRequest, UnsubValidator, Verdict, async_trait,
};
use serde::{Deserialize, Serialize};

use crate::presence::Presence;

/// Where a client asks for its subscriptions.
const MY_SUBSCRIPTIONS: &str = "$mySubscriptions";
/// Where a client asks who is connected.
const ONLINE: &str = "$online";
/// An answer to `$online` names no more clients than this. How many there are it tells in any case.
const MAX_NAMED: usize = 1_000;

/// The application: one type for all decisions.
pub(crate) struct SampleApp {
    tokens: TokenIssuer,
    /// The presence channel.
    update: ChannelName,
    presence: Presence,
}

impl SampleApp {
    pub(crate) fn new(tokens: TokenIssuer) -> Self {
        let update = ChannelName::parse("update").expect("six letters are a channel name");
        Self { tokens, presence: Presence::new(update.clone()), update }
    }

    /// `update` is the server's own: clients hear it whether they want to or not, and none may speak.
    fn unless_update(&self, channel: &ChannelName) -> Verdict {
        if *channel == self.update { Verdict::NOT_ALLOWED } else { Verdict::Allow }
    }

    async fn my_subscriptions(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        #[derive(Serialize)]
        struct MySubscriptions<'a> {
            channels: BTreeMap<&'a str, &'static str>,
        }
        let subscriptions = request.server.subscriptions(request.client).await?;
        let named = subscriptions.iter().map(|(channel, persistence)| {
            let persistence = match persistence {
                Persistence::Persistent => "persistent",
                Persistence::Temporary => "temp",
            };
            (channel.as_str(), persistence)
        });
        Ok(ControlReply::ok(&MySubscriptions { channels: named.collect() })?)
    }

    /// The connected clients, in alphabetical order. Later changes are published on the presence channel.
    ///
    /// Everybody may ask here, and each answer looks at every connection. An application with many thousands
    /// of clients would tell each only of those that concern it.
    fn online(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        #[derive(Serialize)]
        struct Online<'a> {
            /// Where it is told who comes and who goes.
            channel: &'a str,
            clients: Vec<&'a str>,
            /// How many there are, named or not.
            total: usize,
        }
        let mut all: Vec<_> = request.server.connections().into_iter().map(|(client, _)| client).collect();
        all.sort_unstable();
        all.dedup(); // during a takeover between two nodes both may have a session
        let clients = all.iter().take(MAX_NAMED).map(ClientId::as_str).collect();
        let online = Online { channel: self.update.as_str(), clients, total: all.len() };
        Ok(ControlReply::ok(&online)?)
    }
}

#[async_trait]
impl AuthValidator for SampleApp {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        #[derive(Deserialize)]
        struct AuthData {
            /// The user name of an MQTT client.
            #[serde(alias = "username")]
            client_name: Option<String>,
        }
        // A real application checks a password here.
        let name = match request.json().map(|data: AuthData| data.client_name) {
            Ok(Some(name)) => name,
            Ok(None) if request.mqtt().is_some() => "guest".to_owned(),
            _ => {
                let message = "the auth data must have a client_name, which is a string";
                return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, message));
            }
        };
        Ok(match ClientId::parse(&name).and_then(|_| request.client_id(&name)) {
            Ok(client) => self.tokens.grant(client)?,
            Err(error) => {
                let message = format!("client_name cannot be used: {error}");
                AuthVerdict::refuse(StatusCode::INVALID_PACKET, message)
            }
        })
    }
}

#[async_trait]
impl ConnValidator for SampleApp {
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        let client = request.client;
        let expiry = match self.tokens.valid_until(client, request.token) {
            Ok(expiry) => expiry,
            Err(error) => {
                tracing::debug!(%client, remote = %request.connection.remote, %error, "refused");
                return Ok(ConnVerdict::Refuse(StatusCode::INVALID_TOKEN));
            }
        };
        // Many devices do not expect messages that they have not asked for, nor those for which this client was subscribed
        // when it spoke JMQT.
        if request.connection.protocol.is_mqtt() {
            request.server.force_unsub(&self.update)?;
            tracing::info!(%client, remote = %request.connection.remote, "accepted");
            return Ok(ConnVerdict::accept().valid_until(expiry));
        }
        // This handle only takes notes: they are carried out in this order once the connection is
        // accepted and an older one of the same client has ended (protocol.md 2.2).
        request.server.force_sub(&ChannelName::of_client(client), Persistence::Persistent)?;
        request.server.force_sub(&self.update, Persistence::Persistent)?;
        tracing::info!(%client, remote = %request.connection.remote, "accepted");
        Ok(ConnVerdict::accept().valid_until(expiry))
    }
}

#[async_trait]
impl OpenNotifier for SampleApp {
    /// The client is subscribed by now, so it hears of itself too.
    async fn on_open(&self, notice: &OpenNotice<'_>) -> Result<(), BoxError> {
        self.presence.comes(notice.client, notice.server);
        Ok(())
    }
}

#[async_trait]
impl SubValidator for SampleApp {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(self.unless_update(request.channel))
    }

    /// Everybody may see everything here. A real application allows filters by their beginning.
    async fn validate_filter(&self, _: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(Verdict::Allow)
    }
}

#[async_trait]
impl UnsubValidator for SampleApp {
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(self.unless_update(request.channel))
    }
}

#[async_trait]
impl PubValidator for SampleApp {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        Ok(self.unless_update(request.channel).into())
    }
}

#[async_trait]
impl ControlHandler for SampleApp {
    async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        match request.channel.as_str() {
            MY_SUBSCRIPTIONS => self.my_subscriptions(request).await,
            ONLINE => self.online(request),
            _ => Ok(ControlReply::status(StatusCode::INVALID_CHANNEL)),
        }
    }
}

#[async_trait]
impl DisconnectNotifier for SampleApp {
    /// Only says so: the close notifier is called for this session too, and once is enough.
    async fn on_disconnect(&self, notice: &DisconnectNotice<'_>) -> Result<(), BoxError> {
        tracing::info!(client = %notice.client, remote = %notice.connection.remote, "disconnects");
        Ok(())
    }
}

#[async_trait]
impl CloseNotifier for SampleApp {
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        let CloseNotice { client, reason, .. } = notice;
        self.presence.goes(client, notice.server);
        tracing::info!(%client, remote = %notice.connection.remote, %reason, "offline");
        Ok(())
    }
}
