//! Who a client is, and how it shows that.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::rules::Rules;
use crate::connection::ConnectionInfo;
use crate::tls::ClientCertificate;
use crate::validators::{AuthRequest, BoxError};

/// Who a client is. [`Login`](super::Login) attaches it to the session, so that every validator has it:
/// `request.session::<Identity>()`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Identity {
    /// The name of the user; `None` for an anonymous client.
    pub user: Option<Box<str>>,
    /// The client id that it must have; `None`: [`ClientIds`](super::ClientIds) decides.
    pub client: Option<Box<str>>,
    /// The end of its sessions; `None`: the lifetime of the token.
    pub valid_until: Option<SystemTime>,
    /// Rules for this client in place of those of [`RulesFile`](super::RulesFile).
    pub rules: Option<Arc<Rules>>,
    pub(super) keeps_token: bool,
    pub(super) revision: Option<Box<str>>,
    /// The place of the source that knows the client.
    pub(super) source: usize,
}

impl Identity {
    /// The identity of a user.
    #[must_use]
    pub fn of_user(user: &str) -> Self {
        Self { user: Some(user.into()), ..Self::default() }
    }

    /// Tokens of this server count for this user only as long as [`IdentitySource::restore`] returns the same revision: that of a
    /// password, for example.
    #[must_use]
    pub fn revision(mut self, revision: &str) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// The client comes back with the token that it has shown, and not with one of this server: [`IdentitySource::identify`] is
    /// asked each time.
    #[must_use]
    pub const fn keep_token(mut self) -> Self {
        self.keeps_token = true;
        self
    }
}

/// A session of which the token has ended is good for this time, in which the server ends it.
const LEEWAY: Duration = Duration::from_secs(30);

impl Identity {
    /// Whether it has ended. The client may have authenticated again, with a token that ends before its session does.
    pub(super) fn has_ended(&self) -> bool {
        self.valid_until.is_some_and(|end| SystemTime::now() > end + LEEWAY)
    }
}

/// What a client shows to prove who it is. An MQTT client shows its user name and its password; a JMQT client sends them in the
/// data of `auth`: `{"username":"alice","password":"secret"}` or `{"token":"…"}`.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Credentials<'a> {
    /// The user name.
    pub user: Option<&'a str>,
    /// The password. Never log it.
    pub password: Option<&'a [u8]>,
    /// A JSON Web Token: that of a JMQT client, or the password of an MQTT client if it looks like one. Never log it.
    pub token: Option<&'a str>,
    /// The certificate of the TLS handshake.
    pub certificate: Option<&'a ClientCertificate>,
    /// The client id that the client asks for; empty if an MQTT client leaves it to the server, `None` in `auth` of a JMQT client.
    pub client_id: Option<&'a str>,
    /// The connection of the client.
    pub connection: Option<ConnectionInfo>,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The data of `auth`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct AuthData {
    #[serde(alias = "user", alias = "client_name", alias = "name")]
    username: Option<String>,
    password: Option<zeroize::Zeroizing<String>>,
    token: Option<zeroize::Zeroizing<String>>,
}

impl AuthData {
    /// The data of a JMQT client; `None` if it has another form. `null` is data without credentials.
    pub(super) fn read(request: &AuthRequest<'_>) -> Option<Self> {
        request.json::<Option<Self>>().ok().map(Option::unwrap_or_default)
    }
}

impl<'a> Credentials<'a> {
    pub(super) fn of(request: &AuthRequest<'a>, data: &'a AuthData) -> Self {
        let (certificate, connection) = (request.certificate(), Some(request.connection));
        match request.mqtt() {
            Some(mqtt) => Self {
                user: mqtt.user_name,
                password: mqtt.password,
                token: mqtt
                    .password
                    .and_then(|password| std::str::from_utf8(password).ok())
                    .filter(|it| is_jwt(it)),
                certificate,
                client_id: Some(mqtt.client_id),
                connection,
            },
            None => Self {
                user: data.username.as_deref(),
                password: data.password.as_ref().map(|password| password.as_bytes()),
                token: data.token.as_ref().map(|token| token.as_str()),
                certificate,
                client_id: None,
                connection,
            },
        }
    }

    /// Whether the client shows nothing, beside a certificate.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.user.is_none() && self.password.is_none() && self.token.is_none()
    }
}

/// Whether a text has the form of a JSON Web Token: three parts, of which the first is the beginning of a JSON object in base64.
fn is_jwt(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The answer of a source.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Answer {
    /// The client is this one.
    Known(Identity),
    /// The client is not who it says it is. No other source is asked. The text is logged, and not sent to the client.
    Refused(String),
    /// These credentials are for another source.
    NotMine,
}

/// Knows users by their credentials. Implement it to log in users of a database of yours.
#[async_trait]
pub trait IdentitySource: Send + Sync + 'static {
    /// Says who shows these credentials.
    ///
    /// # Errors
    /// As for [`AuthValidator::validate_auth`](crate::AuthValidator::validate_auth).
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError>;

    /// Says who a user is that has logged in before, and comes back with a token of this server. `None`: the user is unknown, or
    /// must log in again.
    ///
    /// # Errors
    /// As for [`ConnValidator::validate_conn`](crate::ConnValidator::validate_conn).
    async fn restore(&self, user: &str) -> Result<Option<Identity>, BoxError>;

    /// Whether an identity that this source has given still counts, for
    /// [`ServerHandle::revalidate`](crate::ServerHandle::revalidate): the session of a user who was removed ends. By default it does.
    ///
    /// # Errors
    /// After an error the session goes on.
    async fn is_current(&self, identity: &Identity) -> Result<bool, BoxError> {
        let _ = identity;
        Ok(true)
    }

    /// Whether this name is that of a user, so that nobody else may have it as a client id ([`ClientIds::Any`](super::ClientIds::Any)).
    /// The default knows nobody.
    fn has_user(&self, user: &str) -> bool {
        let _ = user;
        false
    }
}
