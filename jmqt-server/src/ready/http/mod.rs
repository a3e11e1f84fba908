//! An existing web backend decides, over HTTP.

mod answer;
mod breaker;
mod client;
mod question;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Uri;
use hyper::header::HeaderValue;
use jmqt_core::{Payload, Persistence, Qos, Retain, StatusCode};
use serde_json::value::RawValue;

use self::answer::{Outcome, Reply};
use self::client::{Backend, Options, Repeat};
use self::question::Question;
use super::identity::{Answer, Credentials, Identity, IdentitySource};
use super::rules::{Access, Rules};
use super::unavailable::Unavailable;
use crate::validators::{
    BoxError, ControlHandler, ControlReply, ControlRequest, FilterRequest, PubRequest, PubValidator,
    PubVerdict, SubRequest, SubValidator, UnsubRequest, UnsubValidator, Verdict,
};
use crate::watched::{FileError, Problem, Watched, warn_if_public};

pub use self::client::HttpCounters;

/// Asks a web backend: an [`IdentitySource`] for [`Login`](super::Login), a [`SubValidator`], [`PubValidator`], [`UnsubValidator`] and
/// [`ControlHandler`], for whichever of these it is given to the builder.
///
/// ```no_run
/// use jmqt_server::prelude::*;
/// use jmqt_server::ready::{HttpBackend, Login};
///
/// # async fn serve() -> Result<(), BoxError> {
/// let config = Config::load(Some("server.conf".as_ref()))?;
/// let backend = HttpBackend::builder("https://app.example.com/messaging").secret_file("backend.secret").build()?;
/// let login = Login::new(TokenIssuer::from_config(&config)?).ask(backend.clone());
/// let server = Server::builder(config)
///     .validate_auth(login.clone()).validate_conn(login)
///     .validate_sub(backend.clone()).validate_pub(backend)
///     .start().await?;
/// server.run_until_signal().await?;
/// # Ok(())
/// # }
/// ```
///
/// # The question
///
/// A POST request with a JSON object. Where EMQX has the field, it has its name. Fields that do not apply are left out.
///
/// | field | meaning |
/// |---|---|
/// | `action` | `connect`, `reconnect`, `subscribe`, `publish`, `unsubscribe` or `request` |
/// | `clientid` | the client id; of `connect` the one that an MQTT client asks for |
/// | `username` | the user name that the client shows; later, the user that the backend named |
/// | `password`, `token` | what the client shows; `password_base64` if the password is not UTF-8 |
/// | `cert_common_name`, `cert_subject` | of the certificate of the client |
/// | `peerhost`, `protocol` | the address of the client; `SOCKET`, `WEB_SOCKET`, `MQTT` … |
/// | `topic` | the channel, or the filter with wildcards of a subscription; of `request` the control channel with its `$` |
/// | `qos`, `retain`, `will` | of `publish` |
/// | `persistent`, `group` | of `subscribe`: whether messages wait for the client while it is away; the group of a shared subscription |
/// | `data` | of `request`, and of `publish` with [`send_data`](HttpBuilder::send_data): the data as JSON |
///
/// `reconnect` has only `username`: a user who has logged in before comes back with a token of this server. Answer `deny` if the
/// user was removed, or must log in again.
///
/// # The answer
///
/// Status 200 with a JSON object. Everything else, a redirect included, is a failure and refuses the client.
///
/// | field | meaning |
/// |---|---|
/// | `result` | `allow`, `deny`, or `ignore`: the next source of the login is asked; of all else, `deny`. Required |
/// | `reason` | of `deny` for `connect`: logged, and not sent to the client |
/// | `username` | of `connect`: the user, if it is another than the client has shown |
/// | `clientid` | of `connect`: the client id that the client must have |
/// | `acl` | of `connect`: `{"sub":["news/#"],"pub":[],"all":["home/%u/#"]}`, patterns of [`Rules`]. They decide about `subscribe` and `publish` of this session then, and the backend is not asked |
/// | `expire_at` | of `connect`: the end of the session, in seconds since 1970 |
/// | `status` | of `deny`, the status that the client receives (default 7, NOT_ALLOWED); of `request`, also with `allow` |
/// | `data` | of `request`, the data of the answer; of `publish`, what is published instead |
///
/// # Failures
///
/// Who cannot be asked about is refused with SERVER_ERROR, "try again later" (MQTT: 0x88 at connect, 0x83 later). After five failures in
/// a row the backend is not asked for a while, at first a second, at most 45, and then with one question as a trial; the log has a
/// line when this begins, and when it ends. A question is repeated after a failure to connect and after status 503, and, unless it
/// is a `request`, if the connection ended without an answer. A client that waits for an answer holds up nobody else.
///
/// A will is judged when its client connects.
///
/// A question takes a millisecond at least: give `acl` in the answer to `connect`, or wrap this in [`Cached`](super::Cached), where clients
/// publish often.
///
/// Cheap to clone. The connections are those of the tokio runtime in which it is used first.
#[derive(Clone)]
pub struct HttpBackend {
    backend: Arc<Backend>,
    sends_data: bool,
}

impl fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpBackend({})", self.backend.name())
    }
}

/// A backend cannot be asked with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The URL.
    #[error("the URL of the HTTP backend {0}")]
    Url(String),
    /// The file with the secret.
    #[error(transparent)]
    Secret(#[from] FileError),
    /// The certificates of CAs.
    #[error("cannot read the CA certificates for the HTTP backend: {0}")]
    Trust(String),
}

/// The settings of an [`HttpBackend`].
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpBuilder {
    url: String,
    secret: Option<PathBuf>,
    ca: Option<PathBuf>,
    allows_plain: bool,
    connect_timeout: Duration,
    timeout: Duration,
    at_once: usize,
    most_waiting: usize,
    retries: u32,
    sends_data: bool,
}

impl HttpBuilder {
    /// Sends the content of this file as `Authorization: Bearer …`. The file is read again when it changes. Default: none.
    pub fn secret_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.secret = Some(path.into());
        self
    }

    /// Trusts the CAs in this PEM file. Default: those of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// Permits `http://` to another machine, which sends passwords unencrypted. Default: only to this machine.
    pub const fn allow_plain_http(mut self) -> Self {
        self.allows_plain = true;
        self
    }

    /// Limits the time of a connect with its TLS handshake. Default 2 s.
    pub const fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// Limits the time of a question, from its arrival here to the end of the answer, with repetitions. Default 5 s. Keep it below
    /// VALIDATOR_TIMEOUT_SECONDS.
    pub const fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Asks at most so many questions at once, each on a connection of its own. Default 64.
    pub const fn at_once(mut self, questions: usize) -> Self {
        self.at_once = questions;
        self
    }

    /// Lets at most so many questions wait for their turn; further ones are refused. Default 1,000.
    pub const fn most_waiting(mut self, questions: usize) -> Self {
        self.most_waiting = questions;
        self
    }

    /// How often a question is repeated. Default 1.
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sends the data of messages that clients publish, too. Default: only that of requests to control channels.
    pub const fn send_data(mut self) -> Self {
        self.sends_data = true;
        self
    }

    /// Reads the files. No connection is made.
    ///
    /// # Errors
    /// [`HttpError`] names the setting that cannot be used.
    pub fn build(self) -> Result<HttpBackend, HttpError> {
        let url = checked(&self.url, self.allows_plain).map_err(HttpError::Url)?;
        let secret = self.secret.map(|path| {
            warn_if_public(&path);
            Watched::open(path, bearer)
        });
        let options = Options {
            url,
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            at_once: self.at_once,
            most_waiting: self.most_waiting,
            retries: self.retries,
        };
        let backend = Backend::new(options, self.ca.as_deref(), secret.transpose()?)?;
        Ok(HttpBackend { backend: Arc::new(backend), sends_data: self.sends_data })
    }
}

/// The header for the secret in a file.
fn bearer(text: &str) -> Result<HeaderValue, Vec<Problem>> {
    let secret = text.trim();
    let is_token = !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic());
    let header = HeaderValue::from_str(&format!("Bearer {secret}")).ok().filter(|_| is_token);
    let mut header = header.ok_or_else(|| {
        vec![Problem::of_file(
            "expected one line with the secret, of printable ASCII characters without spaces",
        )]
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// The URL, if passwords may be sent to it. The URL itself is not in the error: it may have a secret.
fn checked(url: &str, allows_plain: bool) -> Result<Uri, String> {
    let expected = "expected https://HOST/PATH, or http://127.0.0.1:PORT/PATH for a backend on this machine";
    let url: Uri = url.parse().map_err(|error| format!("is none: {error}; {expected}"))?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(format!("has no scheme or no host; {expected}"));
    };
    if authority.as_str().contains('@') {
        return Err("has a user name or a password: put the secret into a file".to_owned());
    }
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here =
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => Ok(url),
        "http" if is_here || allows_plain => Ok(url),
        "http" => Err(format!(
            "is http:// to another machine, {host}: passwords would be sent unencrypted; use https://, or allow it if the network is \
                trusted"
        )),
        _ => Err(format!("has the scheme {scheme:?}; {expected}")),
    }
}

impl HttpBackend {
    /// Settings for the backend at this URL: `https://`, or `http://` on this machine.
    pub fn builder(url: &str) -> HttpBuilder {
        HttpBuilder {
            url: url.to_owned(),
            secret: None,
            ca: None,
            allows_plain: false,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            at_once: 64,
            most_waiting: 1000,
            retries: 1,
            sends_data: false,
        }
    }

    /// The URL without its query, as it is in the log.
    #[must_use]
    pub fn url(&self) -> &str {
        self.backend.name()
    }

    /// Whether the backend is not asked at the moment, because it has not answered several times.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.backend.is_open()
    }

    /// How often it was asked.
    #[must_use]
    pub fn counters(&self) -> HttpCounters {
        self.backend.counters()
    }

    async fn who(
        &self,
        question: Question<'_>,
        shown: Option<&str>,
        is_anonymous: bool,
    ) -> Result<Answer, BoxError> {
        let read = |body: &[u8]| Reply::read(body)?.identity(shown, is_anonymous);
        Ok(self.backend.ask(question.json()?, Repeat::Harmless, read).await?)
    }

    /// Asks whether a client may do something that its own rules do not decide.
    async fn may(&self, question: Question<'_>) -> Result<Verdict, BoxError> {
        let read = |body: &[u8]| {
            let reply = Reply::read(body)?;
            Ok(match reply.result {
                Outcome::Allow => Verdict::Allow,
                Outcome::Deny | Outcome::Ignore => Verdict::Refuse(reply.refusal()),
            })
        };
        let answer = self.backend.ask(question.json()?, Repeat::Harmless, read).await;
        Ok(answer.unwrap_or(Verdict::Refuse(StatusCode::SERVER_ERROR)))
    }
}

/// What the own rules of a client say, if it has some. Who has ended may do nothing.
fn by_own_rules(
    identity: Option<&Identity>,
    decide: impl FnOnce(&Rules, Option<&str>) -> bool,
) -> Option<Verdict> {
    let identity = identity?;
    let is_allowed = match identity.rules.as_deref() {
        _ if identity.has_ended() => false,
        Some(rules) => decide(rules, identity.user.as_deref()),
        None => return None,
    };
    Some(if is_allowed { Verdict::Allow } else { Verdict::NOT_ALLOWED })
}

#[async_trait]
impl IdentitySource for HttpBackend {
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        let is_anonymous = credentials.is_empty();
        self.who(Question::who_is(credentials), credentials.user, is_anonymous).await
    }

    async fn restore(&self, user: &str) -> Result<Option<Identity>, BoxError> {
        let answer = self.who(Question::may_return(user), Some(user), false).await?;
        // Under another name it would have the client id of this one.
        Ok(match answer {
            Answer::Known(identity) if identity.user.as_deref() == Some(user) => Some(identity),
            _ => None,
        })
    }
}

#[async_trait]
impl SubValidator for HttpBackend {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        let (client, channel, identity) = (request.client, request.channel, request.session::<Identity>());
        if let Some(verdict) =
            by_own_rules(identity, |rules, user| rules.allow(user, client, Access::Read, channel))
        {
            return Ok(verdict);
        }
        let question =
            Question::may("subscribe", client.as_str(), identity, request.connection, channel.as_str());
        let persistent = Some(request.persistence == Persistence::Persistent);
        self.may(Question { persistent, group: request.group, ..question }).await
    }

    async fn validate_filter(&self, request: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        let (client, filter, identity) = (request.client, request.filter, request.session::<Identity>());
        if let Some(verdict) = by_own_rules(identity, |rules, user| rules.allow_filter(user, client, filter))
        {
            tokio::task::yield_now().await;
            return Ok(verdict);
        }
        let question = Question::may("subscribe", client.as_str(), identity, request.connection, filter);
        self.may(Question { group: request.group, ..question }).await
    }
}

#[async_trait]
impl PubValidator for HttpBackend {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        let (client, channel, identity) = (request.client, request.channel, request.session::<Identity>());
        // A will was allowed when its client connected. Its connection is gone when it is published.
        if request.is_will && identity.is_none() {
            return Ok(PubVerdict::Allow);
        }
        if let Some(verdict) =
            by_own_rules(identity, |rules, user| rules.allow(user, client, Access::Write, channel))
        {
            return Ok(verdict.into());
        }
        let data: Option<&RawValue> = match self.sends_data {
            true => Some(serde_json::from_str(request.data.as_str())?),
            false => None,
        };
        let question =
            Question::may("publish", client.as_str(), identity, request.connection, channel.as_str());
        let question = Question {
            qos: Some(match request.qos {
                Qos::AtMostOnce => 0,
                Qos::AtLeastOnce => 1,
                Qos::ExactlyOnce => 2,
            }),
            retain: Some(request.retain == Retain::Yes),
            will: request.is_will.then_some(true),
            data,
            ..question
        };
        let read = |body: &[u8]| {
            let reply = Reply::read(body)?;
            Ok(match (reply.result, reply.data()) {
                (Outcome::Allow, None) => PubVerdict::Allow,
                (Outcome::Allow, Some(data)) => {
                    PubVerdict::replace_raw(data).map_err(|_| "data is nested too deeply".to_owned())?
                }
                (Outcome::Deny | Outcome::Ignore, _) => PubVerdict::Refuse(reply.refusal()),
            })
        };
        let answer = self.backend.ask(question.json()?, Repeat::Harmless, read).await;
        Ok(answer.unwrap_or(PubVerdict::Refuse(StatusCode::SERVER_ERROR)))
    }
}

#[async_trait]
impl UnsubValidator for HttpBackend {
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        let (identity, channel) = (request.session::<Identity>(), request.channel.as_str());
        let topic = channel.strip_prefix("$filter/").unwrap_or(channel);
        self.may(Question::may("unsubscribe", request.client.as_str(), identity, request.connection, topic))
            .await
    }
}

#[async_trait]
impl ControlHandler for HttpBackend {
    async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        let (identity, channel) = (request.session::<Identity>(), request.channel.as_str());
        let question =
            Question::may("request", request.client.as_str(), identity, request.connection, channel);
        let data: Option<&RawValue> =
            request.data.map(Payload::as_str).map(serde_json::from_str).transpose()?;
        let read = |body: &[u8]| {
            let reply = Reply::read(body)?;
            let status = if reply.result == Outcome::Allow { reply.status() } else { reply.refusal() };
            match reply.data() {
                None => Ok(ControlReply::status(status)),
                Some(data) => {
                    ControlReply::with_json(status, data).map_err(|_| "data is nested too deeply".to_owned())
                }
            }
        };
        let question = Question { data, ..question };
        let answer = self.backend.ask(question.json()?, Repeat::Unseen, read).await;
        Ok(answer.unwrap_or_else(|_: Unavailable| ControlReply::status(StatusCode::SERVER_ERROR)))
    }
}

#[cfg(test)]
mod tests;
