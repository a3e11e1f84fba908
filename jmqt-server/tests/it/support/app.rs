//! The application of the tests: allows everything, until a test says otherwise.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use jmqt_server::{
    AuthExchange, AuthRequest, AuthToken, AuthValidator, AuthVerdict, BoxError, ClientId, CloseNotice,
    CloseNotifier, CloseReason, ConnRequest, ConnValidator, ConnVerdict, ControlHandler, ControlReply,
    ControlRequest, DisconnectNotice, DisconnectNotifier, ExchangeRequest, FilterRequest, PubRequest,
    PubValidator, PubVerdict, ServerHandle, SessionRequest, StatusCode, SubRequest, SubValidator,
    UnsubRequest, UnsubValidator, Verdict, async_trait,
};
use tokio::sync::{Semaphore, mpsc};

use super::within;

/// Which of the eight was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    Auth,
    Conn,
    Sub,
    Pub,
    Unsub,
    Control,
    Disconnect,
    Close,
}

/// The behaviour of a validator or notifier instead of its usual answer.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Refuses with this status. Notifiers cannot.
    Refuse(StatusCode),
    /// Returns an error.
    Fail,
    Panic,
    /// Never answers.
    Hang,
    /// Waits until the gate is opened, then gives its usual answer.
    Hold(Gate),
}

/// Holds all callers until it is opened permanently.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.close();
    }

    async fn pass(&self) {
        // Closed is the only way it ever answers.
        drop(self.0.acquire().await);
    }
}

/// The content of a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Disconnect(String),
    Close(String, CloseReason),
}

/// A control request that may be kept.
pub struct OwnedControl {
    pub client: ClientId,
    pub channel: String,
    pub data: Option<String>,
    pub server: ServerHandle,
}

type ConnAnswer = dyn Fn(&ConnRequest<'_>) -> Result<ConnVerdict, BoxError> + Send + Sync;
/// Begins an authentication exchange of MQTT 5.
type Exchanges = dyn Fn(&ExchangeRequest<'_>) -> Option<Box<dyn AuthExchange>> + Send + Sync;
/// Whether this client may do this with this channel or filter.
type Rule = dyn Fn(Asked, &ClientId, &str) -> bool + Send + Sync;
type ControlFuture = Pin<Box<dyn Future<Output = Result<ControlReply, BoxError>> + Send>>;
type ControlAnswer = dyn Fn(OwnedControl) -> ControlFuture + Send + Sync;

/// One type for all eight traits; clones are the same application.
///
/// Usually: `auth` with `{"client_name":"alice"}` grants the token `token-alice`, and `conn` wants that
/// token. Everything else is allowed; a control request is answered with its own data.
#[derive(Clone)]
pub struct TestApp {
    inner: Arc<Inner>,
}

struct Inner {
    behaviours: Mutex<HashMap<Asked, Behaviour>>,
    conn: Mutex<Option<Arc<ConnAnswer>>>,
    exchanges: Mutex<Option<Arc<Exchanges>>>,
    rule: Mutex<Option<Arc<Rule>>>,
    revision: Mutex<Option<u64>>,
    control: Mutex<Option<Arc<ControlAnswer>>>,
    asked: mpsc::UnboundedSender<(Asked, String)>,
    was_asked: tokio::sync::Mutex<mpsc::UnboundedReceiver<(Asked, String)>>,
    notify: mpsc::UnboundedSender<Notice>,
    notices: tokio::sync::Mutex<mpsc::UnboundedReceiver<Notice>>,
}

impl TestApp {
    pub fn new() -> Self {
        let (asked, was_asked) = mpsc::unbounded_channel();
        let (notify, notices) = mpsc::unbounded_channel();
        let inner = Inner {
            behaviours: Mutex::default(),
            conn: Mutex::default(),
            exchanges: Mutex::default(),
            rule: Mutex::default(),
            revision: Mutex::default(),
            control: Mutex::default(),
            asked,
            was_asked: tokio::sync::Mutex::new(was_asked),
            notify,
            notices: tokio::sync::Mutex::new(notices),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on, this one behaves like that.
    pub fn set(&self, asked: Asked, behaviour: Behaviour) {
        self.inner.behaviours.lock().unwrap().insert(asked, behaviour);
    }

    /// From now on, this one gives its usual answers again.
    pub fn reset(&self, asked: Asked) {
        self.inner.behaviours.lock().unwrap().remove(&asked);
    }

    /// What this one is asked next waits until the returned gate is opened.
    pub fn hold(&self, asked: Asked) -> Gate {
        let gate = Gate::closed();
        self.set(asked, Behaviour::Hold(gate.clone()));
        gate
    }

    /// Answers `conn` from now on; the token is not looked at.
    pub fn on_conn(
        &self,
        answer: impl Fn(&ConnRequest<'_>) -> Result<ConnVerdict, BoxError> + Send + Sync + 'static,
    ) {
        *self.inner.conn.lock().unwrap() = Some(Arc::new(answer));
    }

    /// Begins authentication exchanges from now on.
    pub fn on_exchange(
        &self,
        begin: impl Fn(&ExchangeRequest<'_>) -> Option<Box<dyn AuthExchange>> + Send + Sync + 'static,
    ) {
        *self.inner.exchanges.lock().unwrap() = Some(Arc::new(begin));
    }

    /// Decides about subscriptions and publishes from now on.
    pub fn on_rule(&self, rule: impl Fn(Asked, &ClientId, &str) -> bool + Send + Sync + 'static) {
        *self.inner.rule.lock().unwrap() = Some(Arc::new(rule));
    }

    /// The revision of the rules from now on.
    pub fn set_revision(&self, revision: Option<u64>) {
        *self.inner.revision.lock().unwrap() = revision;
    }

    /// Answers control requests from now on.
    pub fn on_control<F>(&self, answer: impl Fn(OwnedControl) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<ControlReply, BoxError>> + Send + 'static,
    {
        *self.inner.control.lock().unwrap() = Some(Arc::new(move |request| Box::pin(answer(request))));
    }

    /// Waits until this one is asked, skipping requests to others. Returns the subject of the
    /// request: the channel, the client id or the auth data.
    pub async fn asked(&self, wanted: Asked) -> String {
        let mut was_asked = self.inner.was_asked.lock().await;
        within(format_args!("{wanted:?} being asked"), async {
            loop {
                let (asked, about) = was_asked.recv().await.unwrap();
                if asked == wanted {
                    return about;
                }
            }
        })
        .await
    }

    /// The number of requests since the last call.
    pub async fn times_asked(&self, wanted: Asked) -> usize {
        let mut was_asked = self.inner.was_asked.lock().await;
        let mut times = 0;
        while let Ok((asked, _)) = was_asked.try_recv() {
            times += usize::from(asked == wanted);
        }
        times
    }

    /// The next call of a notifier.
    pub async fn notice(&self) -> Notice {
        let mut notices = self.inner.notices.lock().await;
        within("a notice", notices.recv()).await.unwrap()
    }

    /// The next call of a notifier must be this one.
    pub async fn expect_close(&self, client: &str, reason: CloseReason) {
        assert_eq!(self.notice().await, Notice::Close(client.to_owned(), reason));
    }

    /// Notices that no test has waited for.
    pub async fn more_notices(&self) -> Vec<Notice> {
        let mut notices = self.inner.notices.lock().await;
        std::iter::from_fn(|| notices.try_recv().ok()).collect()
    }

    /// Notes that it was asked, and misbehaves if it should. `Some`: refuse with this.
    async fn ask(&self, asked: Asked, about: &str) -> Result<Option<StatusCode>, BoxError> {
        self.inner.asked.send((asked, about.to_owned())).unwrap();
        let behaviour = self.inner.behaviours.lock().unwrap().get(&asked).cloned();
        match behaviour {
            None => Ok(None),
            Some(Behaviour::Refuse(status)) => Ok(Some(status)),
            Some(Behaviour::Fail) => Err("it failed, as it was told to".into()),
            Some(Behaviour::Panic) => panic!("as the test wants it"),
            Some(Behaviour::Hang) => std::future::pending().await,
            Some(Behaviour::Hold(gate)) => {
                gate.pass().await;
                Ok(None)
            }
        }
    }

    async fn verdict(&self, asked: Asked, client: &ClientId, about: &str) -> Result<Verdict, BoxError> {
        if let Some(status) = self.ask(asked, about).await? {
            return Ok(Verdict::Refuse(status));
        }
        let rule = self.inner.rule.lock().unwrap().clone();
        let is_allowed = rule.is_none_or(|rule| rule(asked, client, about));
        Ok(if is_allowed { Verdict::Allow } else { Verdict::NOT_ALLOWED })
    }
}

#[async_trait]
impl AuthValidator for TestApp {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        if let Some(status) = self.ask(Asked::Auth, request.data.as_str()).await? {
            return Ok(AuthVerdict::refuse(status, "refused"));
        }
        let data: serde_json::Value = serde_json::from_str(request.data.as_str())?;
        // An MQTT client without an id is called as its user, and a client without a name as in its certificate.
        let asked = request.mqtt().map(|mqtt| mqtt.client_id).filter(|id| !id.is_empty());
        let given = asked.or(data["client_name"].as_str()).or(data["username"].as_str());
        let Some(name) = given.or(request.certificate().and_then(|it| it.common_name())) else {
            return Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "client_name is missing"));
        };
        Ok(AuthVerdict::grant(ClientId::parse(name)?, AuthToken::new(format!("token-{name}"))))
    }

    async fn begin_exchange(
        &self,
        request: &ExchangeRequest<'_>,
    ) -> Result<Option<Box<dyn AuthExchange>>, BoxError> {
        let begin = self.inner.exchanges.lock().unwrap().clone();
        Ok(begin.and_then(|begin| begin(request)))
    }
}

#[async_trait]
impl ConnValidator for TestApp {
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        let answer = self.inner.conn.lock().unwrap().clone();
        if let Some(status) = self.ask(Asked::Conn, request.client.as_str()).await? {
            return Ok(ConnVerdict::Refuse(status));
        }
        if let Some(answer) = answer {
            return answer(request);
        }
        if request.token != format!("token-{}", request.client) {
            return Ok(ConnVerdict::Refuse(StatusCode::INVALID_TOKEN));
        }
        Ok(ConnVerdict::accept())
    }

    /// As the rule says, about the channel `$session`.
    async fn validate_again(&self, request: &SessionRequest<'_>) -> Result<Verdict, BoxError> {
        self.verdict(Asked::Conn, request.client, "$session").await
    }
}

#[async_trait]
impl SubValidator for TestApp {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        self.verdict(Asked::Sub, request.client, request.channel.as_str()).await
    }

    async fn validate_filter(&self, request: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        self.verdict(Asked::Sub, request.client, request.filter).await
    }

    fn revision(&self, _: &SessionRequest<'_>) -> Option<u64> {
        *self.inner.revision.lock().unwrap()
    }
}

#[async_trait]
impl PubValidator for TestApp {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        Ok(self.verdict(Asked::Pub, request.client, request.channel.as_str()).await?.into())
    }
}

#[async_trait]
impl UnsubValidator for TestApp {
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        self.verdict(Asked::Unsub, request.client, request.channel.as_str()).await
    }
}

#[async_trait]
impl ControlHandler for TestApp {
    async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        if let Some(status) = self.ask(Asked::Control, request.channel.as_str()).await? {
            return Ok(ControlReply::status(status));
        }
        let data = request.data.map(|data| data.as_str().to_owned());
        let answer = self.inner.control.lock().unwrap().clone();
        match (answer, data) {
            (Some(answer), data) => {
                let request = OwnedControl {
                    client: request.client.clone(),
                    channel: request.channel.as_str().to_owned(),
                    data,
                    server: request.server.clone(),
                };
                answer(request).await
            }
            (None, Some(data)) => Ok(ControlReply::with_json(StatusCode::OK, &data)?),
            (None, None) => Ok(ControlReply::status(StatusCode::OK)),
        }
    }
}

#[async_trait]
impl DisconnectNotifier for TestApp {
    async fn on_disconnect(&self, notice: &DisconnectNotice<'_>) -> Result<(), BoxError> {
        let client = notice.client.as_str();
        self.inner.notify.send(Notice::Disconnect(client.to_owned())).unwrap();
        self.ask(Asked::Disconnect, client).await.map(drop)
    }
}

#[async_trait]
impl CloseNotifier for TestApp {
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        let client = notice.client.as_str();
        let told = Notice::Close(client.to_owned(), notice.reason);
        self.inner.notify.send(told).unwrap();
        self.ask(Asked::Close, client).await.map(drop)
    }
}
