//! Keeps the answers of a validator for a while.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jmqt_core::{ClientId, Persistence, Qos, Retain, StatusCode};
use ring::hmac;

use super::single_flight::{Answers, Asked};
use crate::ready::{Answer, Credentials, Identity, IdentitySource};
use crate::validators::{
    BoxError, FilterRequest, PubRequest, PubValidator, PubVerdict, SessionData, SessionRequest, SubRequest,
    SubValidator, UnsubRequest, UnsubValidator, Verdict,
};

/// How long answers count, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// How long a permission counts. Default 10 s.
    pub allowed: Duration,
    /// How long a refusal counts. Default 1 s.
    pub refused: Duration,
    /// The most answers, of about 200 bytes each. Default 100,000. Those that were not used recently go first.
    pub most_answers: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { allowed: Duration::from_secs(10), refused: Duration::from_secs(1), most_answers: 100_000 }
    }
}

/// A validator whose answers are kept for a while. Who asks the same at the same time waits for one answer. An error, and a refusal with SERVER_ERROR,
/// is not kept: the next one asks again.
///
/// ```
/// use std::time::Duration;
///
/// use jmqt_server::prelude::*;
/// use jmqt_server::ready::{CacheOptions, Cached};
///
/// #[derive(Clone)]
/// struct Database;
///
/// #[async_trait]
/// impl SubValidator for Database {
///     async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
///         // Asks the database.
/// #       let _ = request;
///         Ok(Verdict::Allow)
///     }
/// }
///
/// # fn build(builder: jmqt_server::ServerBuilder) -> jmqt_server::ServerBuilder {
/// let options = CacheOptions { allowed: Duration::from_secs(60), ..CacheOptions::default() };
/// builder.validate_sub(Cached::new(Database, options))
/// # }
/// ```
///
/// - Of a [`SubValidator`], [`PubValidator`] and [`UnsubValidator`], an answer counts for one session (one session data; without session data, one client id) and
///   the same question: channel or filter, group, persistence; of a publish also QoS, retained flag, and whether it is a will. The data of a message is no part of it:
///   wrap a [`PubValidator`] only if it does not look at the data. What it [replaces](PubVerdict::Replace) is not kept.
/// - Of an [`IdentitySource`], an answer counts for the same credentials from whatever address, and a permission at most until the identity ends. A user who was removed, or whose password was
///   changed, can log in until then. Credentials are kept as a keyed hash.
///
/// Clones share the answers.
pub struct Cached<T> {
    inner: Arc<T>,
    options: CacheOptions,
    shared: Arc<Shared>,
}

struct Shared {
    verdicts: Answers<Box<[u8]>, Verdict>,
    publishes: Answers<Box<[u8]>, PubVerdict>,
    identities: Answers<[u8; 32], Answer>,
    /// `None` if there are no random numbers: then nothing of logins is kept.
    key: Option<hmac::Key>,
}

impl<T: fmt::Debug> fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cached({:?})", self.inner)
    }
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), options: self.options, shared: Arc::clone(&self.shared) }
    }
}

impl<T> Cached<T> {
    /// Keeps the answers of this validator.
    #[must_use]
    pub fn new(validator: T, options: CacheOptions) -> Self {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        let key = getrandom::fill(key.as_mut_slice())
            .is_ok()
            .then(|| hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
        let most = options.most_answers;
        let shared = Shared {
            verdicts: Answers::new(most),
            publishes: Answers::new(most),
            identities: Answers::new(most),
            key,
        };
        Self { inner: Arc::new(validator), options, shared: Arc::new(shared) }
    }

    /// Forgets all answers, for example after a change of rights.
    pub fn clear(&self) {
        self.shared.verdicts.clear();
        self.shared.publishes.clear();
        self.shared.identities.clear();
    }

    async fn verdict<F: Future<Output = Result<Verdict, BoxError>>>(
        &self,
        key: Key<'_>,
        ask: impl FnOnce() -> F,
    ) -> Result<Verdict, BoxError> {
        let session = key.session.map(Arc::downgrade);
        let options = self.options;
        let keep = move |verdict: &Verdict| match verdict {
            Verdict::Allow => Some(options.allowed),
            Verdict::Refuse(status) => kept_refusal(options, *status),
        };
        Ok(self.shared.verdicts.get(key.bytes(), session, ask, keep).await?.0)
    }
}

fn kept_refusal(options: CacheOptions, status: StatusCode) -> Option<Duration> {
    (status != StatusCode::SERVER_ERROR).then_some(options.refused)
}

/// What makes two questions the same.
struct Key<'a> {
    kind: u8,
    flags: u8,
    session: Option<&'a SessionData>,
    client: &'a ClientId,
    channel: &'a str,
    group: Option<&'a str>,
}

impl Key<'_> {
    fn bytes(&self) -> Box<[u8]> {
        let address = self.session.map_or(0, |data| Arc::as_ptr(data).cast::<()>() as usize);
        let (client, channel) = (self.client.as_str(), self.channel);
        let mut bytes =
            Vec::with_capacity(24 + client.len() + channel.len() + self.group.map_or(0, str::len));
        bytes.extend([self.kind, self.flags, u8::from(self.group.is_some())]);
        bytes.extend(address.to_le_bytes());
        // Lengths, so that the end of one text cannot be the beginning of the next.
        for text in [client, self.group.unwrap_or_default(), channel] {
            bytes.extend(text.len().to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.into()
    }
}

#[async_trait]
impl<T: SubValidator> SubValidator for Cached<T> {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        let key = Key {
            kind: b's',
            flags: u8::from(request.persistence == Persistence::Persistent),
            session: request.session.0,
            client: request.client,
            channel: request.channel.as_str(),
            group: request.group,
        };
        self.verdict(key, || self.inner.validate_sub(request)).await
    }

    async fn validate_filter(&self, request: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        let key = Key {
            kind: b'f',
            flags: 0,
            session: request.session.0,
            client: request.client,
            channel: request.filter,
            group: request.group,
        };
        self.verdict(key, || self.inner.validate_filter(request)).await
    }

    fn revision(&self, request: &SessionRequest<'_>) -> Option<u64> {
        self.inner.revision(request)
    }
}

#[async_trait]
impl<T: UnsubValidator> UnsubValidator for Cached<T> {
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        let key = Key {
            kind: b'u',
            flags: 0,
            session: request.session.0,
            client: request.client,
            channel: request.channel.as_str(),
            group: None,
        };
        self.verdict(key, || self.inner.validate_unsub(request)).await
    }
}

#[async_trait]
impl<T: PubValidator> PubValidator for Cached<T> {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        let qos = match request.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        };
        let key = Key {
            kind: b'p',
            flags: qos | u8::from(request.retain == Retain::Yes) << 2 | u8::from(request.is_will) << 3,
            session: request.session.0,
            client: request.client,
            channel: request.channel.as_str(),
            group: None,
        };
        let session = key.session.map(Arc::downgrade);
        let options = self.options;
        let keep = move |verdict: &PubVerdict| match verdict {
            PubVerdict::Allow => Some(options.allowed),
            PubVerdict::Replace(_) => None,
            PubVerdict::Refuse(status) => kept_refusal(options, *status),
        };
        let ask = || self.inner.validate_pub(request);
        match self.shared.publishes.get(key.bytes(), session, ask, keep).await? {
            // The data of another message.
            (PubVerdict::Replace(_), Asked::Elsewhere) => self.inner.validate_pub(request).await,
            (verdict, _) => Ok(verdict),
        }
    }
}

impl<T> Cached<T> {
    /// A keyed hash of what a client shows.
    fn hash(&self, parts: &[Option<&[u8]>]) -> Option<[u8; 32]> {
        let mut context = hmac::Context::with_key(self.shared.key.as_ref()?);
        for part in parts {
            let length = part.map_or(usize::MAX, <[u8]>::len);
            context.update(&length.to_le_bytes());
            context.update(part.unwrap_or_default());
        }
        context.sign().as_ref().try_into().ok()
    }

    fn keep(options: CacheOptions, answer: &Answer) -> Option<Duration> {
        match answer {
            Answer::Known(identity) => {
                let rest =
                    identity.valid_until.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
                Some(rest.unwrap_or(Duration::MAX).min(options.allowed))
            }
            Answer::Refused(_) | Answer::NotMine => Some(options.refused),
        }
    }
}

#[async_trait]
impl<T: IdentitySource> IdentitySource for Cached<T> {
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        let certificate = credentials.certificate;
        let leaf = certificate.and_then(|certificate| certificate.chain().next());
        let protocol = credentials.connection.map(|connection| connection.protocol.as_str());
        let key = self.hash(&[
            Some(b"who"),
            credentials.user.map(str::as_bytes),
            credentials.password,
            credentials.token.map(str::as_bytes),
            certificate.map(|certificate| certificate.subject().as_bytes()),
            leaf,
            credentials.client_id.map(str::as_bytes),
            protocol.map(str::as_bytes),
        ]);
        let Some(key) = key else { return self.inner.identify(credentials).await };
        let keep = |answer: &Answer| Self::keep(self.options, answer);
        Ok(self.shared.identities.get(key, None, || self.inner.identify(credentials), keep).await?.0)
    }

    async fn restore(&self, user: &str) -> Result<Option<Identity>, BoxError> {
        let Some(key) = self.hash(&[Some(b"restore"), Some(user.as_bytes())]) else {
            return self.inner.restore(user).await;
        };
        let ask = || async { Ok(self.inner.restore(user).await?.map_or(Answer::NotMine, Answer::Known)) };
        let keep = |answer: &Answer| Self::keep(self.options, answer);
        Ok(match self.shared.identities.get(key, None, ask, keep).await?.0 {
            Answer::Known(identity) => Some(identity),
            Answer::Refused(_) | Answer::NotMine => None,
        })
    }

    fn has_user(&self, user: &str) -> bool {
        self.inner.has_user(user)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jmqt_core::{ChannelName, Payload};

    use super::*;
    use crate::ready::{Limited, TimedOut, Unavailable};
    use crate::testing::{TestClient, TestServer};
    use crate::validators::PubData;

    /// Counts its questions.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Counting {
        fn asked(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl SubValidator for Counting {
        async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            match request.channel.as_str() {
                "denied" => Ok(Verdict::NOT_ALLOWED),
                "failing" => Err("no database".into()),
                "later" => Ok(Verdict::Refuse(StatusCode::SERVER_ERROR)),
                "slow" => std::future::pending().await,
                _ => Ok(Verdict::Allow),
            }
        }
    }

    #[async_trait]
    impl PubValidator for Counting {
        async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(PubVerdict::replace_raw(request.data.as_str())?)
        }
    }

    #[async_trait]
    impl IdentitySource for Counting {
        async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(match (credentials.user, credentials.password) {
                (Some("down"), _) => return Err(Unavailable::because("down").into()),
                (Some(user), Some(b"secret")) => Answer::Known(Identity::of_user(user)),
                _ => Answer::Refused("wrong password".to_owned()),
            })
        }

        async fn restore(&self, _: &str) -> Result<Option<Identity>, BoxError> {
            Ok(None)
        }
    }

    fn client(name: &str) -> TestClient {
        TestClient::new(&TestServer::new(), ClientId::parse(name).unwrap())
    }

    async fn sub(
        validator: &impl SubValidator,
        client: &TestClient,
        channel: &str,
    ) -> Result<Verdict, String> {
        let channel = ChannelName::parse(channel).unwrap();
        let answer = validator.validate_sub(&client.sub(&channel, Persistence::Temporary)).await;
        answer.map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn permissions_and_refusals_are_kept_for_their_time_and_failures_not_at_all() {
        let cached = Cached::new(Counting::default(), CacheOptions::default());
        let alice = client("alice");
        for (channel, after) in [
            ("a", [1, 1, 1, 1]),
            ("denied", [1, 1, 2, 2]),
            ("failing", [1, 2, 3, 4]),
            ("later", [1, 2, 3, 4]),
        ] {
            let before = cached.inner.asked();
            for (round, after) in after.into_iter().enumerate() {
                if round == 2 {
                    tokio::time::advance(CacheOptions::default().refused).await;
                }
                let verdict = sub(&cached, &alice, channel).await;
                assert_eq!(verdict.is_ok_and(|verdict| verdict == Verdict::Allow), channel == "a");
                assert_eq!(cached.inner.asked() - before, after, "{channel}, question {round}");
            }
        }
        let before = cached.inner.asked();
        cached.clear();
        sub(&cached, &alice, "a").await.unwrap();
        assert_eq!(cached.inner.asked(), before + 1);
    }

    #[tokio::test]
    async fn an_answer_is_for_one_session_and_one_question() {
        let cached = Cached::new(Counting::default(), CacheOptions::default());
        let (data, other) = (Arc::new(1), Arc::new(1));
        let clients = [
            client("alice"),
            client("alice").attach(Arc::clone(&data)),
            client("alice").attach(other),
            client("bob").attach(Arc::clone(&data)),
        ];
        for _ in 0..2 {
            for client in &clients {
                sub(&cached, client, "a").await.unwrap();
                sub(&cached, client, "b").await.unwrap();
                assert_eq!(cached.validate_filter(&client.filter("a")).await.unwrap(), Verdict::NOT_ALLOWED);
            }
            assert_eq!(cached.inner.asked(), 8);
        }
        drop((clients, data));
        // The data of a session that has ended is not kept in memory: its address alone is.
        let fresh = Arc::new(1);
        let weak = Arc::downgrade(&fresh);
        let alice = client("alice").attach(fresh);
        sub(&cached, &alice, "a").await.unwrap();
        drop(alice);
        assert!(weak.upgrade().is_none());
    }

    #[tokio::test]
    async fn what_replaces_the_data_of_one_message_replaces_no_other() {
        let cached = Cached::new(Counting::default(), CacheOptions::default());
        let (alice, channel) = (client("alice"), ChannelName::parse("a").unwrap());
        let data: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let data: Vec<PubData<'_>> =
            data.iter().map(|text| PubData::json(Payload::parse(text).unwrap())).collect();
        let requests: Vec<_> = data.iter().map(|data| alice.publish(&channel, data)).collect();
        let mut all: futures_util::stream::FuturesUnordered<_> = requests
            .iter()
            .map(|request| async { (request.data.as_str(), cached.validate_pub(request).await.unwrap()) })
            .collect();
        while let Some((sent, verdict)) = futures_util::StreamExt::next(&mut all).await {
            assert_eq!(verdict, PubVerdict::replace_raw(sent).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_asked_about_once() {
        let cached = Cached::new(Counting::default(), CacheOptions::default());
        let with = |user, password: &'static str| Credentials {
            user: Some(user),
            password: Some(password.as_bytes()),
            ..Credentials::default()
        };
        for _ in 0..3 {
            assert!(matches!(cached.identify(&with("alice", "secret")).await.unwrap(), Answer::Known(_)));
            assert!(matches!(cached.identify(&with("alice", "wrong")).await.unwrap(), Answer::Refused(_)));
            assert!(matches!(cached.identify(&with("alices", "ecret")).await.unwrap(), Answer::Refused(_)));
        }
        assert_eq!(cached.inner.asked(), 3);
        for _ in 0..3 {
            assert!(cached.identify(&with("down", "x")).await.unwrap_err().is::<Unavailable>());
        }
        assert_eq!(cached.inner.asked(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_validator_is_answered_for_and_holds_up_its_queue_only_for_its_time() {
        let limit = Duration::from_secs(1);
        let limited = Limited::new(TimedOut::new(Counting::default(), limit), 1, 1);
        let alice = client("alice");
        let later = Ok(Verdict::Refuse(StatusCode::SERVER_ERROR));
        let start = tokio::time::Instant::now();
        let (first, second, third) = tokio::join!(
            sub(&limited, &alice, "slow"),
            sub(&limited, &alice, "a"),
            sub(&limited, &alice, "a"),
        );
        assert_eq!((first, second, third), (later.clone(), Ok(Verdict::Allow), later));
        assert_eq!(start.elapsed(), limit);
        assert_eq!(sub(&limited, &alice, "failing").await, Err("no database".to_owned()), "errors pass");
    }
}
