//! Enhanced authentication with the server of this repository (MQTT 5.0, 4.12).

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jmqt_client::mqtt::{AuthExchange, ConnectError, DisconnectReason};
use jmqt_server::{
    AuthStep, AuthToken, AuthVerdict, ClientId, ExchangeRequest, Protocol, StatusCode, async_trait,
};

use super::*;

type BoxError = Box<dyn Error + Send + Sync>;

/// The server's part: it asks twice, for the data of the first packet reversed, and greets.
#[derive(Default)]
struct Mirror {
    expected: Vec<u8>,
    asked: u32,
}

#[async_trait]
impl jmqt_server::AuthExchange for Mirror {
    async fn start(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError> {
        self.expected = request.data.unwrap_or_default().iter().rev().copied().collect();
        Ok(AuthStep::challenge("first"))
    }

    async fn next(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError> {
        if request.data != Some(&self.expected) {
            return Ok(AuthStep::done(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "wrong answer")));
        }
        self.asked += 1;
        if self.asked == 1 {
            return Ok(AuthStep::challenge("second"));
        }
        let token = AuthToken::new(format!("token-{}", request.client_id)); // As the test's conn validator wants it.
        let grant = AuthVerdict::grant(ClientId::parse(request.client_id)?, token);
        Ok(AuthStep::done_with(grant, "welcome"))
    }
}

/// The client's part, with a number for each exchange.
struct Answers {
    number: u32,
    what: &'static str,
    challenges: Vec<Vec<u8>>,
}

impl AuthExchange for Answers {
    async fn start(&mut self) -> Result<Vec<u8>, BoxError> {
        if self.what == "cannot start" && self.number > 0 {
            return Err("no token".into());
        }
        Ok(format!("key{}", self.number).into_bytes())
    }

    async fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.challenges.push(challenge.to_vec());
        tokio::task::yield_now().await;
        match self.what {
            "wrong" if self.number > 0 => Ok(b"nonsense".to_vec()),
            "cannot answer" => Err("no key".into()),
            _ => Ok(format!("{}yek", self.number).into_bytes()),
        }
    }

    fn finish(&mut self, data: &[u8]) -> Result<(), BoxError> {
        assert_eq!(self.challenges, [&b"first"[..], b"second"]);
        assert_eq!(data, b"welcome");
        if self.what == "does not trust" { Err("a stranger".into()) } else { Ok(()) }
    }
}

async fn server() -> (TestServer, String) {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    server.app.on_exchange(|request| (request.method == "mirror").then(|| Box::new(Mirror::default()) as _));
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    (server, url)
}

/// Options with an exchange of this kind, and how many have begun.
fn authenticating(url: &str, method: &str, what: &'static str) -> (Options, Arc<AtomicU32>) {
    let begun = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&begun);
    let begin = move || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Answers { number, what, challenges: Vec::new() }
    };
    (options(url, Version::V5, "authenticated").authenticate(method, begin), begun)
}

#[tokio::test] // MQTT-4.12.0-3
async fn each_connection_has_an_exchange_and_the_client_answers_its_challenges() {
    let (server, _) = server().await;
    let proxy = Proxy::start(server.address(Protocol::Mqtt)).await;
    let (wanted, begun) = authenticating(&proxy.url("mqtt"), "mirror", "");
    let client = connect(wanted).await;
    let mut events = client.events();
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    proxy.cut();
    within("a connection", async { while !matches!(events.next().await, Some(Event::Connected { .. })) {} })
        .await;
    assert_eq!(begun.load(Ordering::Relaxed), 2);
}

#[tokio::test] // MQTT-4.12.1-1
async fn a_client_authenticates_within_its_session_as_often_as_it_wants() {
    let (_server, url) = server().await;
    let (wanted, begun) = authenticating(&url, "mirror", "");
    let client = connect(wanted).await;
    let mut events = client.events();
    let mut stream = client.subscribe("news", Qos::AtLeastOnce).await.unwrap();
    for _ in 0..3 {
        let message = Publish::new("news", "x").unwrap().at_least_once();
        let (published, authenticated) = tokio::join!(client.publish(&message), client.reauthenticate());
        published.unwrap();
        authenticated.unwrap();
        assert_eq!(text(&mut stream).await, "x");
    }
    assert_eq!(begun.load(Ordering::Relaxed), 4);
    assert!(tokio::time::timeout(Duration::ZERO, events.next()).await.is_err(), "the connection has changed");
}

#[tokio::test] // MQTT-4.12.0-1, MQTT-4.12.1-2
async fn an_exchange_that_fails_says_where_and_why() {
    let (_server, url) = server().await;
    let reason = |error: &ConnectError| error.reason();
    let (wanted, _) = authenticating(&url, "unknown", "");
    let error = within("an error", Client::connect(wanted)).await.unwrap_err();
    assert_eq!(reason(&error), Some(ReasonCode::BAD_AUTHENTICATION_METHOD));
    assert!(error.to_string().contains("Options::authenticate"), "{error}");
    for (what, words) in [("cannot answer", "no key"), ("does not trust", "a stranger")] {
        let (wanted, _) = authenticating(&url, "mirror", what);
        let error = within("an error", Client::connect(wanted)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Authentication(_)), "{error}");
        assert!(error.to_string().ends_with(words), "{error}");
    }
    // Nothing was sent yet, so the session goes on.
    let (wanted, _) = authenticating(&url, "mirror", "cannot start");
    let client = connect(wanted).await;
    let error = client.reauthenticate().await.unwrap_err().to_string();
    assert!(error.contains("no token") && client.is_connected(), "{error}");
    // A refusal ends the connection, and the client stays away.
    let (mut wanted, _) = authenticating(&url, "mirror", "wrong");
    wanted.client_id = "refused".to_owned();
    let client = connect(wanted).await;
    let error = within("an error", client.reauthenticate()).await.unwrap_err();
    let jmqt_client::mqtt::Error::Stopped(DisconnectReason::ByServer { reason, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(reason, ReasonCode::NOT_AUTHORIZED);
    let plain = connect(options(&url, Version::V5, "plain").login("plain", "x")).await;
    let error = plain.reauthenticate().await.unwrap_err().to_string();
    assert!(error.contains("Options::authenticate"), "{error}");
    let (mut wanted, _) = authenticating(&url, "mirror", "");
    wanted.version = Version::V3_1_1;
    let error = Client::connect(wanted).await.unwrap_err().to_string();
    assert!(error.contains("MQTT 5"), "{error}");
}
