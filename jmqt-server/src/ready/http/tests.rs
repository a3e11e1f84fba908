//! A backend that answers well, badly or not at all, over real connections.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use jmqt_core::{ChannelName, ClientId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::ready::Login;
use crate::testing::{TestClient, TestServer};
use crate::tokens::TokenIssuer;
use crate::validators::{AuthValidator as _, AuthVerdict, ConnValidator as _, ConnVerdict, PubData};

/// What the backend does with a question.
enum Act {
    /// Answers 200 with this JSON, and keeps the connection.
    Json(Value),
    /// Sends these bytes, and keeps the connection.
    Raw(Vec<u8>),
    /// Sends these bytes, and ends the connection.
    RawAndEnd(Vec<u8>),
    /// Sends nothing more, and keeps the connection.
    Silence,
    /// Sends one of these bytes every 20 ms.
    Trickle(Vec<u8>),
}

fn allow() -> Act {
    Act::Json(json!({"result": "allow"}))
}

fn status(line: &str) -> Act {
    Act::Raw(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n").into_bytes())
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A web backend on a free port.
#[derive(Clone)]
struct Web {
    url: String,
    connections: Arc<AtomicUsize>,
    /// Head and body of each question.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Web {
    async fn start(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/messaging?key=canary-in-url", listener.local_addr().unwrap());
        let web = Self { url, connections: Arc::default(), asked: Arc::default() };
        let this = web.clone();
        let act: Arc<dyn Fn(usize) -> Act + Send + Sync> = Arc::new(act);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                this.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, this.clone(), Arc::clone(&act)));
            }
        });
        web
    }

    async fn answering(answer: Value) -> Self {
        Self::start(move |_| Act::Json(answer.clone())).await
    }

    fn builder(&self) -> HttpBuilder {
        HttpBackend::builder(&self.url)
    }

    fn backend(&self) -> HttpBackend {
        self.builder().timeout(Duration::from_secs(20)).build().unwrap()
    }

    fn questions(&self) -> Vec<Value> {
        self.asked.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }
}

async fn serve(mut stream: TcpStream, web: Web, act: Arc<dyn Fn(usize) -> Act + Send + Sync>) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(read[..end].to_vec()).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let all = end + length.parse::<usize>().unwrap();
        while read.len() < all {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0);
        }
        let body = serde_json::from_slice(&read[end..all]).unwrap();
        read.drain(..all);
        let number = {
            let mut asked = web.asked.lock().unwrap();
            asked.push((head, body));
            asked.len()
        };
        match act(number) {
            Act::Json(answer) => stream.write_all(&ok(&answer.to_string())).await.unwrap(),
            Act::Raw(bytes) => stream.write_all(&bytes).await.unwrap(),
            Act::RawAndEnd(bytes) => return stream.write_all(&bytes).await.unwrap(),
            Act::Silence => {}
            Act::Trickle(bytes) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// A client that asks to subscribe.
struct Asker(TestClient, ChannelName);

impl Asker {
    fn new() -> Self {
        Self::named("alice")
    }

    fn named(user: &str) -> Self {
        let client = TestClient::new(&TestServer::new(), ClientId::parse(user).unwrap());
        Self(client.attach(Arc::new(Identity::of_user(user))), ChannelName::parse("news").unwrap())
    }

    async fn sub(&self, backend: &HttpBackend) -> Verdict {
        backend.validate_sub(&self.0.sub(&self.1, Persistence::Persistent)).await.unwrap()
    }
}

const LATER: Verdict = Verdict::Refuse(StatusCode::SERVER_ERROR);

#[tokio::test]
async fn the_backend_is_asked_with_the_names_of_emqx_and_decides() {
    let web = Web::start(|number| {
        Act::Json(match number {
            1 => json!({"result": "allow"}),
            2 => json!({"result": "deny"}),
            3 => json!({"result": "deny", "status": 100}),
            4 => json!({"result": "ignore"}),
            5 => json!({"result": "allow", "data": {"at": 1.50}}),
            6 => json!({"result": "allow", "status": 1, "data": ["bob"]}),
            _ => json!({"result": "allow"}),
        })
    })
    .await;
    let (backend, alice) = (web.builder().send_data().build().unwrap(), Asker::new());
    assert_eq!(alice.sub(&backend).await, Verdict::Allow);
    for expected in [Verdict::NOT_ALLOWED, Verdict::Refuse(StatusCode::new(100)), Verdict::NOT_ALLOWED] {
        assert_eq!(alice.sub(&backend).await, expected);
    }
    let data = PubData::json(Payload::parse(r#"{"at":1}"#).unwrap());
    let verdict = backend.validate_pub(&alice.0.publish(&alice.1, &data)).await.unwrap();
    assert_eq!(verdict, PubVerdict::replace_raw(r#"{"at":1.5}"#).unwrap());
    let members = ChannelName::parse("$members").unwrap();
    let room = Payload::parse(r#""room""#).unwrap();
    let reply = backend.handle_control(&alice.0.control(&members, Some(room))).await.unwrap();
    assert_eq!(reply, ControlReply::with_json(StatusCode::OK, r#"["bob"]"#).unwrap());
    assert_eq!(backend.validate_unsub(&alice.0.unsub(&alice.1)).await.unwrap(), Verdict::Allow);

    let who =
        json!({"clientid": "alice", "username": "alice", "peerhost": "127.0.0.1", "protocol": "SOCKET"});
    let with = |more: Value| {
        let mut all = who.as_object().unwrap().clone();
        all.extend(more.as_object().unwrap().clone());
        Value::from(all)
    };
    let asked = web.questions();
    assert_eq!(asked[0], with(json!({"action": "subscribe", "topic": "news", "persistent": true})));
    let publish = json!({"action": "publish", "topic": "news", "qos": 0, "retain": false, "data": {"at": 1}});
    assert_eq!(asked[4], with(publish));
    assert_eq!(asked[5], with(json!({"action": "request", "topic": "$members", "data": "room"})));
    assert_eq!(asked[6], with(json!({"action": "unsubscribe", "topic": "news"})));
    assert_eq!(web.connections.load(Ordering::SeqCst), 1, "the connection is kept");
    assert_eq!(backend.counters(), HttpCounters { answered: 7, failed: 0, not_sent: 0 });
}

#[tokio::test]
async fn clients_log_in_with_what_the_backend_says_and_come_back_if_it_agrees() {
    let web = Web::start(|number| {
        Act::Json(match number {
            1 => json!({"result": "allow", "expire_at": 4_102_444_800_u64, "acl": {"sub": ["news"]}}),
            2 => json!({"result": "allow"}),
            3 | 4 => json!({"result": "deny", "reason": "gone"}),
            _ => json!({"result": "allow", "username": "bob"}),
        })
    })
    .await;
    let backend = web.backend();
    let login = Login::new(TokenIssuer::random().unwrap()).ask(backend.clone());
    let client = TestClient::new(&TestServer::new(), ClientId::parse("alice").unwrap());
    let data = Payload::parse(r#"{"username":"alice","password":"secret"}"#).unwrap();
    let verdict = login.validate_auth(&client.auth(data)).await.unwrap();
    let (id, token) = verdict.granted().unwrap();
    assert_eq!(id.as_str(), "alice");
    assert!(login.validate_conn(&client.conn(token.reveal()).request()).await.unwrap().is_accepted());
    let refused = login.validate_conn(&client.conn(token.reveal()).request()).await.unwrap();
    assert!(matches!(refused, ConnVerdict::Refuse(StatusCode::INVALID_TOKEN)), "{refused:?}");
    assert!(login.validate_auth(&client.auth(data)).await.unwrap().granted().is_none());
    let renamed = login.validate_conn(&client.conn(token.reveal()).request()).await.unwrap();
    assert!(!renamed.is_accepted(), "a client id stays with its user: {renamed:?}");
    let asked = web.questions();
    assert_eq!((&asked[0]["action"], &asked[0]["password"]), (&json!("connect"), &json!("secret")));
    assert_eq!(asked[1], json!({"action": "reconnect", "username": "alice"}));

    // Rules in the answer to connect decide without a question.
    let Answer::Known(identity) = Reply::read(br#"{"result":"allow","acl":{"sub":["news"]}}"#)
        .unwrap()
        .identity(Some("alice"), false)
        .unwrap()
    else {
        panic!()
    };
    let alice = Asker(client.attach(Arc::new(identity)), ChannelName::parse("news").unwrap());
    let before = web.questions().len();
    assert_eq!(alice.sub(&backend).await, Verdict::Allow);
    let data = PubData::json(Payload::NULL);
    let verdict = backend.validate_pub(&alice.0.publish(&alice.1, &data)).await.unwrap();
    assert_eq!(verdict, PubVerdict::NOT_ALLOWED);
    assert_eq!(web.questions().len(), before);
}

#[tokio::test]
async fn whatever_is_not_an_answer_refuses_and_says_try_again_later() {
    let long = ok(&format!(r#"{{"result":"allow","reason":"{}"}}"#, "x".repeat(100_000)));
    let endless_head = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"x: y\r\n".repeat(20_000)].concat();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunks = [
        chunked.as_slice(),
        &b"400\r\n".iter().chain(&[b' '; 1024]).chain(b"\r\n").copied().collect::<Vec<_>>().repeat(80),
    ]
    .concat();
    for (what, bytes) in [
        (
            "an error",
            b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 18\r\n\r\n{\"result\":\"allow\"}"
                .to_vec(),
        ),
        ("a redirect", b"HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("no content", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ("a page", ok("<html>Sign in to the hotel</html>")),
        ("other JSON", ok(r#"{"ok":true}"#)),
        ("not HTTP", b"\x16\x03\x01\x02\x00 hello".to_vec()),
        ("a long answer", long),
        ("a long head", endless_head),
        ("an endless answer", chunks),
    ] {
        let bytes = Arc::new(bytes);
        let web = Web::start(move |_| Act::RawAndEnd(bytes.to_vec())).await;
        let backend = web.builder().timeout(Duration::from_secs(20)).retries(0).build().unwrap();
        assert_eq!(Asker::new().sub(&backend).await, LATER, "{what}");
        assert_eq!(backend.counters().failed, 1, "{what}");
        assert_eq!(web.questions().len(), 1, "{what}: the redirect is not followed");
    }
}

#[tokio::test]
async fn a_backend_that_is_slow_silent_or_dribbles_costs_the_time_limit_and_no_more() {
    let dribble = || Act::Trickle([ok(r#"{"result":"allow"}"#), vec![b' '; 10_000]].concat());
    let acts: [fn() -> Act; 2] = [|| Act::Silence, dribble];
    for act in acts {
        let web = Web::start(move |_| act()).await;
        let backend = web.builder().timeout(Duration::from_millis(400)).build().unwrap();
        let start = Instant::now();
        assert_eq!(Asker::new().sub(&backend).await, LATER);
        assert!(start.elapsed() >= Duration::from_millis(400));
        assert_eq!(backend.counters().failed, 1);
    }
    // Nobody listens, and a port that takes connections without an answer to the TLS handshake.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    let backend = HttpBackend::builder(&format!("https://{address}/"))
        .ca_file(ca_file().path())
        .connect_timeout(Duration::from_millis(200))
        .retries(0)
        .build()
        .unwrap();
    assert_eq!(Asker::new().sub(&backend).await, LATER);
    drop(port);
    assert_eq!(Asker::new().sub(&backend).await, LATER);
}

/// A CA that has signed nothing.
fn ca_file() -> tempfile::NamedTempFile {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate.cert.pem()).unwrap();
    file
}

#[tokio::test]
async fn a_question_is_repeated_after_503_and_after_a_connection_that_was_cut() {
    let web = Web::start(|number| match number {
        1 => status("503 Service Unavailable"),
        // The keep-alive connection ends without an answer, as at a restart of the backend.
        3 => Act::RawAndEnd(Vec::new()),
        5 => Act::RawAndEnd(ok(r#"{"result":"allow"}"#)[..40].to_vec()),
        _ => allow(),
    })
    .await;
    let (backend, alice) = (web.backend(), Asker::new());
    for asked in [2, 4, 6] {
        assert_eq!(alice.sub(&backend).await, Verdict::Allow);
        assert_eq!(web.questions().len(), asked);
    }
    // Ended between two questions.
    let web = Web::start(|_| Act::RawAndEnd(ok(r#"{"result":"allow"}"#))).await;
    let backend = web.backend();
    for _ in 0..10 {
        assert_eq!(alice.sub(&backend).await, Verdict::Allow);
    }
}

#[tokio::test]
async fn a_request_that_the_backend_may_have_seen_is_not_repeated() {
    let web = Web::start(|_| Act::RawAndEnd(Vec::new())).await;
    let (backend, alice) = (web.backend(), Asker::new());
    let pay = ChannelName::parse("$pay").unwrap();
    let reply = backend.handle_control(&alice.0.control(&pay, None)).await.unwrap();
    assert_eq!(reply, ControlReply::status(StatusCode::SERVER_ERROR));
    assert_eq!(web.questions().len(), 1);
}

#[tokio::test]
async fn a_backend_that_fails_is_left_alone_and_asked_again_later() {
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let web = Web::start(move |_| match up.load(Ordering::SeqCst) {
        true => allow(),
        false => status("500 Internal Server Error"),
    })
    .await;
    let (backend, alice) = (web.backend(), Asker::new());
    for _ in 0..breaker::FAILURES {
        assert_eq!(alice.sub(&backend).await, LATER);
    }
    assert!(backend.is_resting());
    let asked = web.questions().len();
    let login = Login::new(TokenIssuer::random().unwrap()).ask(backend.clone());
    let data = Payload::parse(r#"{"username":"alice","password":"secret"}"#).unwrap();
    let verdict = login.validate_auth(&alice.0.auth(data)).await.unwrap();
    let AuthVerdict::Refuse { status, message } = verdict else { panic!() };
    assert_eq!((status, message.as_str()), (StatusCode::SERVER_ERROR, "try again later"));
    for _ in 0..100 {
        assert_eq!(alice.sub(&backend).await, LATER);
    }
    // At most one trial, if this machine stalled for so long.
    assert!(web.questions().len() <= asked + 1);
    assert!(backend.counters().not_sent >= 99);
    is_up.store(true, Ordering::SeqCst);
    let start = Instant::now();
    while alice.sub(&backend).await != Verdict::Allow {
        assert!(start.elapsed() < Duration::from_secs(60), "it is not asked again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!backend.is_resting());
}

#[tokio::test]
async fn a_client_that_provokes_400_does_not_stop_the_others() {
    let web = Web::start(|_| status("400 Bad Request")).await;
    let (backend, alice) = (web.backend(), Asker::new());
    for _ in 0..20 {
        assert_eq!(alice.sub(&backend).await, LATER);
    }
    assert!(!backend.is_resting());
    assert_eq!(web.questions().len(), 20);
}

#[tokio::test]
async fn questions_beyond_the_limits_are_refused_at_once() {
    let web = Web::start(|number| if number <= 2 { Act::Silence } else { allow() }).await;
    let backend = web.builder().at_once(2).most_waiting(3).timeout(Duration::from_secs(20)).build().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let backend = backend.clone();
        tasks.spawn(async move { Asker::new().sub(&backend).await });
    }
    let start = Instant::now();
    while web.questions().len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let backend = backend.clone();
        let mut question = Box::pin(async move { Asker::new().sub(&backend).await });
        assert!(futures_util::FutureExt::now_or_never(question.as_mut()).is_none());
        waiting.push(question);
    }
    assert_eq!(Asker::new().sub(&backend).await, LATER);
    assert_eq!(web.connections.load(Ordering::SeqCst), 2);
    // Clients that leave make room for those that wait.
    tasks.shutdown().await;
    for question in waiting {
        assert_eq!(question.await, Verdict::Allow);
    }
}

#[tokio::test]
async fn the_secret_is_sent_and_is_in_no_text() {
    let web = Web::answering(json!({"result": "deny", "reason": "no"})).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "canary-secret\n").unwrap();
    let backend = web.builder().secret_file(secret.path()).build().unwrap();
    assert_eq!(Asker::new().sub(&backend).await, Verdict::NOT_ALLOWED);
    let head = web.asked.lock().unwrap()[0].0.clone();
    assert!(head.contains("\r\nauthorization: bearer canary-secret\r\n"), "{head}");
    assert!(head.starts_with("post /messaging?key=canary-in-url http/1.1\r\n"), "{head}");
    assert!(!format!("{backend:?}").contains("canary"), "{backend:?}");
    std::fs::write(secret.path(), "two words").unwrap();
    let error = web.builder().secret_file(secret.path()).build().unwrap_err().to_string();
    assert!(error.contains("expected one line with the secret") && !error.contains("two words"), "{error}");
}

#[tokio::test]
async fn passwords_are_not_sent_unencrypted_to_another_machine() {
    let build = |url: &str| HttpBackend::builder(url).ca_file(ca_file().path()).build().map(drop);
    for url in
        ["http://127.0.0.1:1/a", "http://localhost/a", "http://[::1]:80/a", "https://app.example.com/a"]
    {
        build(url).unwrap();
    }
    for (url, expected) in [
        ("http://app.example.com/a?key=canary", "passwords would be sent unencrypted"),
        ("http://127.0.0.1.example.com/", "another machine"),
        ("http://localhost.example.com/", "another machine"),
        ("ftp://127.0.0.1/", "has the scheme \"ftp\""),
        ("/only/a/path", "has no scheme"),
        ("http://user:canary@127.0.0.1/", "put the secret into a file"),
        ("http://canary canary", "is none"),
    ] {
        let error = build(url).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("canary"), "{url}: {error}");
    }
    HttpBackend::builder("http://app.example.com/a").allow_plain_http().build().unwrap();
    let error = HttpBackend::builder("https://a/").ca_file("no/such/file").build().unwrap_err().to_string();
    assert!(error.contains("no/such/file"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_a_known_ca_is_needed_for_https() {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.cert.pem()).unwrap();
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(
        vec![certificate.cert.der().clone()],
        rustls_pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap(),
    )
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut read = [0; 4096];
            let _ = stream.read(&mut read).await;
            let _ = stream.write_all(&ok(r#"{"result":"allow"}"#)).await;
            let _ = stream.shutdown().await;
        }
    });
    let builder = HttpBackend::builder(&format!("https://localhost:{port}/")).retries(0);
    assert_eq!(Asker::new().sub(&builder.clone().ca_file(&ca).build().unwrap()).await, Verdict::Allow);
    let other = ca_file();
    assert_eq!(Asker::new().sub(&builder.ca_file(other.path()).build().unwrap()).await, LATER);
}
