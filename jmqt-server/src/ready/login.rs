//! Logs clients in: asks sources who they are, gives them tokens, and accepts them with these.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use jmqt_core::{AuthToken, ClientId, StatusCode};

use super::identity::{Answer, AuthData, Credentials, Identity, IdentitySource};
use super::unavailable::Unavailable;
use crate::log_limit::log_limited;
use crate::tokens::TokenIssuer;
use crate::validators::{
    AuthRequest, AuthValidator, AuthVerdict, BoxError, ConnRequest, ConnValidator, ConnVerdict,
    SessionRequest, Verdict,
};

/// The user in the token of an anonymous client. No user has an empty name.
const ANONYMOUS: &str = "";
/// What separates the user name in a client id from the rest. No user name has it.
const SEPARATOR: char = ':';
/// The first part of the client ids of anonymous clients beside users.
const ANONYMOUS_NAME: &str = "anonymous";

/// A source cannot answer now.
const LATER: ConnVerdict = ConnVerdict::Refuse(StatusCode::SERVER_ERROR);

/// The client ids that an MQTT client may ask for. The client id of a JMQT client is its user name.
///
/// Sessions belong to client ids: who has the client id of somebody else receives what is meant for that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ClientIds {
    /// The name of the user, or that with `:` and more behind it: `alice`, `alice:phone`. An anonymous client beside users may have
    /// `anonymous:` and more. Where all clients are anonymous, each may have any client id.
    #[default]
    Own,
    /// Every client id whose part before the first `:` is not the name of another user. Users with tokens or certificates are not
    /// known before they log in. A session belongs to the user who began it, so nobody else gets its messages; but until a
    /// user has a session, another one may take the client id.
    Any,
}

/// An [`AuthValidator`] and [`ConnValidator`] that asks [sources](IdentitySource) who a client is.
///
/// A JMQT client sends `{"username":"…","password":"…"}` or `{"token":"…"}` as the data of its `auth`, or `null` as an anonymous
/// client, and comes back with the token that it receives. An MQTT client sends user name and password, or a JSON Web Token as its
/// password. Each session has an [`Identity`] as its session data.
///
/// [The module](super) has an example. Cheap to clone.
#[derive(Clone)]
pub struct Login {
    tokens: TokenIssuer,
    sources: Vec<Arc<dyn IdentitySource>>,
    client_ids: ClientIds,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({} sources, client ids: {:?})", self.sources.len(), self.client_ids)
    }
}

impl Login {
    /// Without a source: nobody is known. These tokens are given to clients.
    #[must_use]
    pub const fn new(tokens: TokenIssuer) -> Self {
        Self { tokens, sources: Vec::new(), client_ids: ClientIds::Own }
    }

    /// Asks this source too, after those before.
    #[must_use]
    pub fn ask(mut self, source: impl IdentitySource) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Sets the client ids that MQTT clients may have. Default [`ClientIds::Own`].
    #[must_use]
    pub const fn client_ids(mut self, client_ids: ClientIds) -> Self {
        self.client_ids = client_ids;
        self
    }

    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        for (place, source) in self.sources.iter().enumerate() {
            match source.identify(credentials).await? {
                Answer::NotMine => {}
                Answer::Known(identity) => return Ok(Answer::Known(Identity { source: place, ..identity })),
                answer => return Ok(answer),
            }
        }
        Ok(Answer::NotMine)
    }

    /// The identity of a client that comes back with a token of ours.
    async fn restore(&self, user: &str) -> Result<Option<Identity>, BoxError> {
        if user == ANONYMOUS {
            let answer = self.identify(&Credentials::default()).await?;
            return Ok(if let Answer::Known(identity) = answer { Some(identity) } else { None });
        }
        for (place, source) in self.sources.iter().enumerate() {
            if let Some(identity) = source.restore(user).await? {
                return Ok(Some(Identity { source: place, ..identity }));
            }
        }
        Ok(None)
    }

    /// The identity of a client that shows a token of somebody else in its `conn`.
    async fn by_token(&self, request: &ConnRequest<'_>) -> Result<Option<Identity>, BoxError> {
        let credentials = Credentials {
            token: Some(request.token),
            certificate: request.certificate(),
            client_id: Some(request.client.as_str()),
            connection: Some(request.connection),
            ..Credentials::default()
        };
        let Answer::Known(identity) = self.identify(&credentials).await? else { return Ok(None) };
        let is_allowed = match (&identity.client, &identity.user) {
            (Some(client), _) => **client == *request.client.as_str(),
            (None, Some(user)) => {
                *user.as_ref() != *ANONYMOUS_NAME
                    && !user.contains(SEPARATOR)
                    && self.may_have(request.client.as_str(), Some(user))
            }
            (None, None) => false,
        };
        Ok(Some(identity).filter(|_| is_allowed))
    }

    /// The client id of somebody who logs in; an error that says why there is none.
    fn client_id(&self, request: &AuthRequest<'_>, identity: &Identity) -> Result<ClientId, String> {
        let asked = request.mqtt().map(|mqtt| mqtt.client_id);
        let user = identity.user.as_deref();
        let parsed = match (&identity.client, asked, user) {
            (Some(fixed), Some(asked), _) if !asked.is_empty() && **fixed != *asked => {
                return Err(format!("the client id of this user must be {fixed}"));
            }
            (Some(fixed), ..) => ClientId::parse(fixed),
            (None, _, Some(user)) if user == ANONYMOUS_NAME || user.contains(SEPARATOR) => {
                return Err("a user name has no colon and is not \"anonymous\"".to_owned());
            }
            (None, None, Some(user)) => ClientId::parse(user),
            (None, None | Some(""), user) => random(user.unwrap_or(ANONYMOUS_NAME)),
            (None, Some(asked), user) if !self.may_have(asked, user) => return Err(self.not_yours(user)),
            (None, Some(asked), _) => ClientId::parse(asked),
        };
        parsed.map_err(|error| error.to_string())
    }

    /// Whether a user, or with `None` an anonymous client, may have this client id.
    fn may_have(&self, id: &str, user: Option<&str>) -> bool {
        let owner = id.split(SEPARATOR).next().unwrap_or(id);
        if user.is_none() && self.sources.len() == 1 {
            return true; // nobody has a name
        }
        let is_free = || self.client_ids == ClientIds::Any && !self.has_user(owner);
        match user {
            Some(user) => owner == user || is_free(),
            None => (owner == ANONYMOUS_NAME && id != owner) || is_free(),
        }
    }

    fn has_user(&self, name: &str) -> bool {
        self.sources.iter().any(|source| source.has_user(name))
    }

    fn not_yours(&self, user: Option<&str>) -> String {
        let name = user.unwrap_or(ANONYMOUS_NAME);
        let own = if user.is_some() { format!("{name}, ") } else { String::new() };
        match self.client_ids {
            ClientIds::Own => format!("this client id is not yours: use {own}{name}:1 or none"),
            ClientIds::Any => "this client id belongs to another user".to_owned(),
        }
    }
}

fn random(name: &str) -> Result<ClientId, jmqt_core::InvalidClientId> {
    let number = getrandom::u64().map_err(|_| jmqt_core::InvalidClientId)?;
    ClientId::parse(&format!("{name}{SEPARATOR}{number:016x}"))
}

#[async_trait]
impl AuthValidator for Login {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        let data = if request.mqtt().is_some() { Some(AuthData::default()) } else { AuthData::read(request) };
        let Some(data) = data else {
            let expected = r#"expected {"username":"...","password":"..."} or {"token":"..."}"#;
            return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, expected));
        };
        let credentials = Credentials::of(request, &data);
        let answer = match self.identify(&credentials).await {
            Err(error) if error.is::<Unavailable>() => {
                return Ok(AuthVerdict::refuse(StatusCode::SERVER_ERROR, "try again later"));
            }
            answer => answer?,
        };
        let reason = match answer {
            Answer::Known(identity) => match self.client_id(request, &identity) {
                Ok(client) => {
                    let token = match credentials.token {
                        Some(token) if identity.keeps_token => AuthToken::new(token),
                        _ => {
                            let user = identity.user.as_deref().unwrap_or(ANONYMOUS);
                            self.tokens.issue_for(
                                &client,
                                user,
                                identity.revision.as_deref(),
                                identity.valid_until,
                            )?
                        }
                    };
                    return Ok(AuthVerdict::grant(client, token).attach(Arc::new(identity)));
                }
                Err(reason) => return Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, reason)),
            },
            Answer::Refused(reason) => reason,
            Answer::NotMine if credentials.is_empty() => "no credentials".to_owned(),
            Answer::NotMine => "no such user".to_owned(),
        };
        let (remote, user) = (request.connection.remote, credentials.user.unwrap_or_default());
        log_limited!(info, each: (user, remote.ip(), &reason), target: "jmqt::app", %remote, user = ?user.chars().take(64).collect::<String>(), %reason, "A login was refused");
        // MQTT tells wrong credentials from missing ones.
        let status = match request.mqtt() {
            Some(_) if !credentials.is_empty() => StatusCode::INVALID_TOKEN,
            _ => StatusCode::NOT_ALLOWED,
        };
        Ok(AuthVerdict::refuse(status, "wrong credentials"))
    }
}

#[async_trait]
impl ConnValidator for Login {
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        let (identity, expiry) = match self.tokens.user_of(request.client, request.token) {
            Ok((expiry, user, revision)) => {
                let identity = match request.session::<Identity>() {
                    Some(identity) => Some(identity.clone()),
                    None => match self.restore(&user).await {
                        Err(error) if error.is::<Unavailable>() => return Ok(LATER),
                        restored => restored?,
                    },
                };
                (
                    identity.filter(|identity| identity.revision.as_deref() == revision.as_deref()),
                    Some(expiry),
                )
            }
            Err(_) => match self.by_token(request).await {
                Err(error) if error.is::<Unavailable>() => return Ok(LATER),
                identity => (identity?, None),
            },
        };
        let Some(identity) = identity else {
            let (client, remote) = (request.client, request.connection.remote);
            tracing::debug!(target: "jmqt::app", %client, %remote, "conn refused: the token is not valid");
            return Ok(ConnVerdict::Refuse(StatusCode::INVALID_TOKEN));
        };
        let end: Option<SystemTime> = [expiry, identity.valid_until].into_iter().flatten().min();
        // Anonymous clients are one owner, whose name no user has.
        let owner = identity.user.as_deref().unwrap_or(ANONYMOUS);
        let verdict = ConnVerdict::accept().owned_by(owner).attach(Arc::new(identity));
        Ok(match end {
            Some(end) => verdict.valid_until(end),
            None => verdict,
        })
    }

    async fn validate_again(&self, request: &SessionRequest<'_>) -> Result<Verdict, BoxError> {
        let Some(identity) = request.session::<Identity>() else { return Ok(Verdict::Allow) };
        let is_current = match self.sources.get(identity.source) {
            Some(source) => source.is_current(identity).await?,
            None => true,
        };
        Ok(if is_current { Verdict::Allow } else { Verdict::NOT_ALLOWED })
    }
}
