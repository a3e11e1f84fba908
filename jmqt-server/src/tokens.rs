//! Tokens, which `authAck` issues and `conn` presents (§10).
//!
//! A [`TokenIssuer`] issues signed tokens that expire, and checks them. It is a
//! [`ConnValidator`] that accepts every client with its own, unexpired
//! token. An application that decides more at `conn` calls [`TokenIssuer::check`] itself.
//!
//! A token is a JSON Web Token signed with HMAC-SHA256. It names one client and the time of its expiry. The server stores
//! no tokens: it checks them with the [secret](TokenSecret), so a token is valid after a restart, and on every node
//! with the same secret.
//!
//! ```
//! use jmqt_server::prelude::*;
//!
//! struct Login(TokenIssuer);
//!
//! #[async_trait]
//! impl AuthValidator for Login {
//!     async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
//!         #[derive(serde::Deserialize)]
//!         struct Data { name: String, password: String }
//!         let Ok(Data { name, password }) = request.json() else {
//!             return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, "expected name and password"));
//!         };
//!         if !password_is_right(&name, &password) {
//!             return Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "wrong name or password"));
//!         }
//!         Ok(self.0.grant(ClientId::parse(&name)?)?)
//!     }
//! }
//!
//! # fn password_is_right(_: &str, _: &str) -> bool { true }
//! # fn build(config: Config) -> Result<jmqt_server::ServerBuilder, BoxError> {
//! let tokens = TokenIssuer::from_config(&config)?;
//! let builder = Server::builder(config).validate_auth(Login(tokens.clone())).validate_conn(tokens);
//! # Ok(builder)
//! # }
//! ```

mod secret;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use jmqt_core::{AuthToken, ClientId, StatusCode};
use jwt_compact::alg::{Hs256, Hs256Key};
use jwt_compact::{AlgorithmExt as _, Claims, Header, TimeOptions, UntrustedToken};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::validators::{AuthVerdict, BoxError, ConnRequest, ConnValidator, ConnVerdict};

pub use secret::{SECRET_FILE_VARIABLE, SECRET_VARIABLE, SecretError, SecretOrigin, TokenSecret};

/// The default lifetime of a token: a day.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Issues tokens and checks them. Cheap to clone.
#[derive(Clone)]
pub struct TokenIssuer {
    key: Arc<Hs256Key>,
    lifetime: TimeDelta,
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenIssuer(..)")
    }
}

/// The reason why a token is refused. Do not send this reason to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token was not issued with this secret, was changed, or is not a token.
    #[error("the token was not issued with this secret")]
    NotOurs,
    /// The token belongs to another client.
    #[error("the token belongs to another client")]
    OtherClient,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
}

/// A token could not be issued.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a token: {0}")]
pub struct IssueError(jwt_compact::CreationError);

/// The claims in addition to the standard `iat` and `exp`.
#[derive(Serialize, Deserialize)]
struct Subject {
    sub: String,
    /// The user, if a [`Login`](crate::ready::Login) issued the token; empty for an anonymous client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// What must not have changed for that user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rev: Option<String>,
}

impl TokenIssuer {
    /// Signs with this secret. Tokens are valid for [`TOKEN_LIFETIME`].
    #[must_use]
    pub fn new(secret: &TokenSecret) -> Self {
        let key = Arc::new(Hs256Key::new(secret.as_bytes()));
        Self { key, lifetime: lifetime(TOKEN_LIFETIME) }
    }

    /// Signs with the secret that [`TokenSecret::load`] finds: in the environment variable `JMQT_TOKEN_SECRET`, or
    /// in a file beside the store, which is created if it is missing. Nodes of a cluster need the variable.
    ///
    /// # Errors
    /// [`SecretError`] names the place that cannot be used, and the cause.
    pub fn from_config(config: &Config) -> Result<Self, SecretError> {
        Ok(Self::new(&TokenSecret::load(config)?))
    }

    /// Signs with a random secret of this process: clients must authenticate again after a restart.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn random() -> Result<Self, SecretError> {
        Ok(Self::new(&TokenSecret::random()?))
    }

    /// Sets the lifetime of new tokens, at most a hundred years.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        self.lifetime = lifetime(time);
        self
    }

    /// Issues a token for this client, valid from now on.
    ///
    /// # Errors
    /// [`IssueError`]; there is no known cause.
    pub fn issue(&self, client: &ClientId) -> Result<AuthToken, IssueError> {
        let subject = Subject { sub: client.as_str().to_owned(), user: None, rev: None };
        self.issue_at(subject, self.lifetime, Utc::now())
    }

    /// As [`issue`](Self::issue), for a user (empty: an anonymous client) with this revision, and valid until this time at most.
    #[cfg(feature = "ready")]
    pub(crate) fn issue_for(
        &self,
        client: &ClientId,
        user: &str,
        revision: Option<&str>,
        until: Option<SystemTime>,
    ) -> Result<AuthToken, IssueError> {
        let now = Utc::now();
        let rest = until.map(|until| DateTime::from(until) - now);
        let (sub, user, rev) =
            (client.as_str().to_owned(), Some(user.to_owned()), revision.map(str::to_owned));
        self.issue_at(Subject { sub, user, rev }, rest.unwrap_or(self.lifetime).min(self.lifetime), now)
    }

    /// The time of expiry of a token of [`issue_for`](Self::issue_for), its user, and the revision.
    #[cfg(feature = "ready")]
    pub(crate) fn user_of(
        &self,
        client: &ClientId,
        token: &str,
    ) -> Result<(SystemTime, String, Option<String>), TokenError> {
        let (expiry, Subject { user, rev, .. }) = self.check_at(client, token, Utc::now())?;
        Ok((expiry, user.ok_or(TokenError::NotOurs)?, rev))
    }

    /// Returns a verdict that grants this client a token.
    ///
    /// # Errors
    /// As [`issue`](Self::issue).
    pub fn grant(&self, client: ClientId) -> Result<AuthVerdict, IssueError> {
        let token = self.issue(&client)?;
        Ok(AuthVerdict::grant(client, token))
    }

    /// Checks that this token was issued to this client and has not expired.
    ///
    /// # Errors
    /// [`TokenError`]: the token does not prove the identity of the client. Refuse with [`StatusCode::INVALID_TOKEN`].
    pub fn check(&self, client: &ClientId, token: &str) -> Result<(), TokenError> {
        self.valid_until(client, token).map(drop)
    }

    /// As [`check`](Self::check), and returns the time of expiry, for [`ConnVerdict::valid_until`].
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn valid_until(&self, client: &ClientId, token: &str) -> Result<SystemTime, TokenError> {
        self.check_at(client, token, Utc::now()).map(|(expiry, _)| expiry)
    }

    fn issue_at(
        &self,
        subject: Subject,
        lifetime: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<AuthToken, IssueError> {
        let claims = Claims::new(subject).set_duration_and_issuance(&clock(now), lifetime);
        Ok(AuthToken::new(Hs256.token(&Header::empty(), &claims, &self.key).map_err(IssueError)?))
    }

    /// The time of expiry, and the claims.
    fn check_at(
        &self,
        client: &ClientId,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(SystemTime, Subject), TokenError> {
        let token = UntrustedToken::new(token).map_err(|_| TokenError::NotOurs)?;
        let token =
            Hs256.validator::<Subject>(&self.key).validate(&token).map_err(|_| TokenError::NotOurs)?;
        let (_, claims) = token.into_parts();
        if claims.custom.sub != client.as_str() {
            return Err(TokenError::OtherClient);
        }
        claims.validate_expiration(&clock(now)).map_err(|_| TokenError::Expired)?;
        let expiry = claims.expiration.map(SystemTime::from).ok_or(TokenError::Expired)?;
        Ok((expiry, claims.custom))
    }
}

/// Accepts a client with its own, unexpired token, until the token expires; refuses any other with INVALID_TOKEN.
#[async_trait]
impl ConnValidator for TokenIssuer {
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        Ok(match self.valid_until(request.client, request.token) {
            Ok(expiry) => ConnVerdict::accept().valid_until(expiry),
            Err(error) => {
                let remote = request.connection.remote;
                tracing::debug!(target: "jmqt::app", client = %request.client, %remote, %error, "conn refused");
                ConnVerdict::Refuse(StatusCode::INVALID_TOKEN)
            }
        })
    }
}

/// At most a hundred years: the expiry of a longer lifetime could overflow.
fn lifetime(time: Duration) -> TimeDelta {
    const LONGEST: TimeDelta = TimeDelta::days(36_500);
    TimeDelta::from_std(time).unwrap_or(LONGEST).min(LONGEST)
}

fn clock(now: DateTime<Utc>) -> TimeOptions<impl Fn() -> DateTime<Utc>> {
    TimeOptions::new(TimeDelta::zero(), move || now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::parse(name).unwrap()
    }

    fn subject(name: &str) -> Subject {
        Subject { sub: name.to_owned(), user: None, rev: None }
    }

    fn tokens(secret: &str) -> TokenIssuer {
        TokenIssuer::new(&TokenSecret::new(secret).unwrap())
    }

    #[test] // §10
    fn a_token_is_valid_for_its_client_until_it_expires() {
        let (tokens, now) = (tokens(&"s".repeat(32)), Utc::now());
        let token = tokens.issue_at(subject("bob"), tokens.lifetime, now).unwrap();
        let check_after = |seconds| {
            let then = now + TimeDelta::seconds(seconds);
            tokens.check_at(&client("bob"), token.reveal(), then).map(drop)
        };
        assert_eq!(check_after(0), Ok(()));
        assert_eq!(check_after(86_399), Ok(()));
        assert_eq!(check_after(86_401), Err(TokenError::Expired));
        assert_eq!(tokens.check(&client("bob"), token.reveal()), Ok(()));
    }

    #[test] // §10
    fn a_token_is_invalid_for_other_clients() {
        let tokens = tokens(&"s".repeat(32));
        let token = tokens.issue(&client("bob")).unwrap();
        for other in ["Bob", "bo", "bobb", "alice"] {
            assert_eq!(tokens.check(&client(other), token.reveal()), Err(TokenError::OtherClient));
        }
    }

    #[test]
    fn every_client_id_gets_a_token() {
        let tokens = tokens(&"s".repeat(32));
        for name in ["a \"quoted\" name", "\u{0}", "José 🦀", &"x".repeat(256)] {
            let token = tokens.issue(&client(name)).unwrap();
            assert_eq!(tokens.check(&client(name), token.reveal()), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn a_token_with_one_character_changed_or_missing_is_refused() {
        let tokens = tokens(&"s".repeat(32));
        let token = tokens.issue(&client("bob")).unwrap().reveal().to_owned();
        for at in 0..token.len() {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut changed = token.clone();
            changed.replace_range(at..=at, other);
            assert_eq!(tokens.check(&client("bob"), &changed), Err(TokenError::NotOurs), "at {at}");
            let cut = &token[..at];
            assert_eq!(tokens.check(&client("bob"), cut), Err(TokenError::NotOurs), "up to {at}");
        }
    }

    #[test]
    fn a_token_of_another_secret_and_an_unsigned_token_are_refused() {
        let bob = client("bob");
        let foreign = tokens(&"t".repeat(32)).issue(&bob).unwrap();
        // {"alg":"none"} . {"exp":99999999999,"sub":"bob"}
        let unsigned = "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTk5LCJzdWIiOiJib2IifQ.";
        for token in
            [foreign.reveal(), unsigned, "", ".", "..", "...", "a.b.c", "test-token", "\u{0}", "é.é.é"]
        {
            assert_eq!(tokens(&"s".repeat(32)).check(&bob, token), Err(TokenError::NotOurs), "{token:?}");
        }
    }

    #[test]
    fn a_token_without_an_expiry_is_refused() {
        let tokens = tokens(&"s".repeat(32));
        let claims = Claims::new(subject("bob"));
        let endless = Hs256.token(&Header::empty(), &claims, &tokens.key).unwrap();
        assert_eq!(tokens.check(&client("bob"), &endless), Err(TokenError::Expired));
    }

    #[test]
    fn an_extremely_long_lifetime_is_limited() {
        let tokens = tokens(&"s".repeat(32)).valid_for(Duration::MAX);
        let token = tokens.issue(&client("bob")).unwrap();
        assert_eq!(tokens.check(&client("bob"), token.reveal()), Ok(()));
    }

    #[test]
    fn random_secrets_differ() {
        let (one, other) = (TokenIssuer::random().unwrap(), TokenIssuer::random().unwrap());
        let token = one.issue(&client("bob")).unwrap();
        assert_eq!(one.check(&client("bob"), token.reveal()), Ok(()));
        assert_eq!(other.check(&client("bob"), token.reveal()), Err(TokenError::NotOurs));
    }
}
