//! `sub`: may this client subscribe to this channel? (§7.g)

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, Persistence};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, SessionRequest, Verdict};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// A `sub` packet with the name of a channel that allows subscriptions.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SubRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The client that subscribes.
    pub client: &'a ClientId,
    /// `cn`.
    pub channel: &'a ChannelName,
    /// `pr`.
    pub persistence: Persistence,
    /// The group of a shared subscription of an MQTT client, of whose members each message goes to one.
    pub group: Option<&'a str>,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(SubRequest);

impl<'a> SubRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        channel: &'a ChannelName,
        persistence: Persistence,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, channel, persistence, group: None, server, session }
    }

    pub(crate) fn in_group(self, group: Option<&'a str>) -> Self {
        Self { group, ..self }
    }
}

/// A subscription with a filter, which has the wildcards `+` (one level) and `#` (all levels from there on), for example
/// `room/+/temperature` or `room/#`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct FilterRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The client that subscribes.
    pub client: &'a ClientId,
    /// The filter, as an MQTT client writes it. That of a JMQT client is the same, except that `%23` and `%2B` in it have
    /// become `%2523` and `%252B` (docs/mqtt.md, Names).
    pub filter: &'a str,
    /// The group of a shared subscription of an MQTT client, of whose members each message goes to one.
    pub group: Option<&'a str>,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(FilterRequest);

/// Decides whether a client may subscribe to a channel (§7.g, §7.h).
///
/// Called once per `sub` packet with a valid channel name, in order for one client, also if the client is already
/// subscribed (protocol.md 2.20). Never called for `$` and `#` channels, which the server refuses itself (§9.d).
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Rooms;
///
/// #[async_trait]
/// impl SubValidator for Rooms {
///     async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
///         let is_private = request.channel.as_str().starts_with("staff.");
///         Ok(if is_private { Verdict::NOT_ALLOWED } else { Verdict::Allow })
///     }
/// }
/// ```
#[async_trait]
pub trait SubValidator: Send + Sync + 'static {
    /// Answers one request. `Verdict::Refuse` carries the status for the `subAck`.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone; the session goes on (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError>;

    /// Answers a request for a subscription with a filter. The default refuses it, because a rule for names does not decide
    /// about names that it never sees: who may subscribe to `#` receives every message of every channel. Allow a filter
    /// only if the client may subscribe to every channel that it matches, for example by its beginning:
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # use jmqt_server::FilterRequest;
    /// # struct Rooms;
    /// # #[async_trait]
    /// # impl SubValidator for Rooms {
    /// #     async fn validate_sub(&self, _: &SubRequest<'_>) -> Result<Verdict, BoxError> { Ok(Verdict::Allow) }
    /// async fn validate_filter(&self, request: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
    ///     let is_public = request.filter.starts_with("public/");
    ///     Ok(if is_public { Verdict::Allow } else { Verdict::NOT_ALLOWED })
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`validate_sub`](Self::validate_sub).
    async fn validate_filter(&self, _request: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(Verdict::NOT_ALLOWED)
    }

    /// A number that differs whenever the answers for this session may differ from earlier ones: a digest of the rules, for
    /// example. It is stored with the session. If another number is stored when the session resumes, all its
    /// subscriptions are validated before anything is sent, so a permission that was withdrawn while the client was away has
    /// no effect. By default there is no number, and the subscriptions of a session that resumes are only validated
    /// if [`ServerHandle::revalidate`](crate::ServerHandle::revalidate) was called while the client was away.
    fn revision(&self, request: &SessionRequest<'_>) -> Option<u64> {
        let _ = request;
        None
    }
}
