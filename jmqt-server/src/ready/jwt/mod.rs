//! Users with JSON Web Tokens (RFC 7519) that another program issues.

mod keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use jwt_compact::UntrustedToken;
use serde::Deserialize;

use super::grants::Grants;
use super::identity::{Answer, Credentials, Identity, IdentitySource};
use crate::validators::BoxError;
use crate::watched::{FileError, Problem, Watched, warn_if_public};

pub use keys::{InvalidKey, JwtKeys};

/// So much may the clocks of the issuer and of this machine differ.
const LEEWAY: Duration = Duration::from_secs(30);

/// Knows users by JSON Web Tokens that another program has signed: HS256, RS256 (2,048 bits or more), ES256 and EdDSA (Ed25519).
///
/// A JMQT client sends the token as `{"token":"…"}` in `auth`, or right away in its `conn`; an MQTT client sends it as its password.
/// The claims:
///
/// | claim | meaning |
/// |---|---|
/// | `sub` | the user; required |
/// | `exp` | the end of the token and of its sessions; required |
/// | `nbf` | the token is not valid before |
/// | `client_id` | the client id that the client must have |
/// | `acl` | what the client may read and write: `{"sub":["news/#"],"pub":["home/%u/#"],"all":["$p2p/%c"]}`, patterns of [`Rules`](super::Rules). The rules of [`RulesFile`](super::RulesFile) do not count for the client then |
/// | `iss`, `aud` | compared with [`issuer`](Self::issuer) and [`audience`](Self::audience) if these are set |
///
/// ```
/// use jmqt_server::ready::{JwtKeys, JwtLogin};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("jwt.key");
/// # std::fs::write(&path, "0123456789abcdef0123456789abcdef")?;
/// let login = JwtLogin::open_secret(path)?.issuer("https://login.example.com").audience("chat");
/// let login = JwtLogin::new(JwtKeys::of_secret(b"0123456789abcdef0123456789abcdef")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JwtLogin {
    keys: Watched<JwtKeys>,
    issuer: Option<Arc<str>>,
    audience: Option<Arc<str>>,
}

impl std::fmt::Debug for JwtLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JwtLogin({:?})", self.keys.get())
    }
}

impl JwtLogin {
    /// Knows users by tokens that one of these keys has signed.
    #[must_use]
    pub fn new(keys: JwtKeys) -> Self {
        Self { keys: Watched::fixed(keys), issuer: None, audience: None }
    }

    /// Reads public keys from a file, in a form that [`JwtKeys::read`] takes. The file is looked at every second, and read again when it
    /// has changed.
    ///
    /// # Errors
    /// [`FileError`] says what is wrong with the file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_as(path.into(), JwtKeys::read)
    }

    /// As [`open`](Self::open), for a file with a secret, without the space around it. Warns in the log if every user of the machine can
    /// read it.
    ///
    /// # Errors
    /// [`FileError`] says what is wrong with the file.
    pub fn open_secret(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_as(path.into(), |text| JwtKeys::of_secret(text.trim().as_bytes()))
    }

    fn open_as(path: PathBuf, read: fn(&str) -> Result<JwtKeys, InvalidKey>) -> Result<Self, FileError> {
        let keys = Watched::open(path.clone(), move |text| {
            read(text).map_err(|error| vec![Problem::of_file(error.to_string())])
        })?;
        if keys.get().has_secret() {
            warn_if_public(&path);
        }
        Ok(Self { keys, issuer: None, audience: None })
    }

    /// Reads the file now. It is read by itself within three seconds after it has changed.
    ///
    /// # Errors
    /// As [`open`](Self::open); the keys that were read before stay.
    pub fn reload(&self) -> Result<(), FileError> {
        self.keys.reload()
    }

    /// Refuses tokens whose `iss` is another.
    #[must_use]
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Refuses tokens whose `aud` is neither this nor a list with it.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// The algorithm of each key.
    #[must_use]
    pub fn algorithms(&self) -> Vec<&'static str> {
        self.keys.get().algorithms().collect()
    }

    /// The user of a token, or why it is refused.
    fn user_of(&self, token: &str, now: SystemTime) -> Result<Identity, String> {
        let parsed = UntrustedToken::<Critical>::try_from(token).map_err(|_| "not a JSON Web Token")?;
        if parsed.header().other_fields.crit.is_some() {
            return Err("the header demands something that is not supported (crit)".to_owned());
        }
        self.keys.get().verify(token, &parsed)?;
        let claims = parsed.deserialize_claims_unchecked::<Claims>();
        let claims = claims.map_err(|error| format!("the claims cannot be used: {error}"))?;
        let seconds =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        let expiry = claims.expiration.ok_or("the claim exp is missing")?;
        if expiry.timestamp() <= seconds(now - LEEWAY) {
            return Err("the token has expired".to_owned());
        }
        if claims.not_before.is_some_and(|start| start.timestamp() > seconds(now + LEEWAY)) {
            return Err("the token is not valid yet (nbf)".to_owned());
        }
        let claims = claims.custom;
        if self.issuer.is_some() && claims.iss.as_deref() != self.issuer.as_deref() {
            return Err("the token has another issuer (iss)".to_owned());
        }
        if let Some(audience) = &self.audience
            && !claims.aud.as_ref().is_some_and(|aud| aud.has(audience))
        {
            return Err("the token is for another audience (aud)".to_owned());
        }
        let user = claims.sub.filter(|sub| !sub.is_empty()).ok_or("the claim sub is missing")?;
        let mut identity = Identity::of_user(&user).keep_token();
        identity.client = claims.client_id.map(Into::into);
        identity.valid_until = Some(expiry.into());
        identity.rules =
            claims.acl.map(Grants::rules).transpose().map_err(|error| format!("claim acl: {error}"))?;
        Ok(identity)
    }
}

/// A field of the header that must be understood (RFC 7515, 4.1.11). None is.
#[derive(Deserialize)]
struct Critical {
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<Audience>,
    client_id: Option<String>,
    acl: Option<Grants>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn has(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

#[async_trait]
impl IdentitySource for JwtLogin {
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        let Some(token) = credentials.token else { return Ok(Answer::NotMine) };
        Ok(match self.user_of(token, SystemTime::now()) {
            Ok(identity) => Answer::Known(identity),
            Err(reason) => Answer::Refused(reason),
        })
    }

    /// Nobody: such a client comes back with its own token.
    async fn restore(&self, _: &str) -> Result<Option<Identity>, BoxError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
