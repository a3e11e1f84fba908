//! A web backend decides who may log in, and who may read and write what.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jmqt_client::mqtt::Qos;
use serde_json::{Value, json};
use test_support::DEADLINE;

use crate::support::{Broker, Folder, refusal, text};

/// A web backend in this process. It knows alice, and lets everybody read `news`.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    is_down: Arc<AtomicBool>,
}

impl Web {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/messaging", listener.local_addr().unwrap());
        let web = Self { url, asked: Arc::default(), is_down: Arc::default() };
        let this = web.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, stream) = (this.clone(), stream.unwrap());
                std::thread::spawn(move || this.serve(stream));
            }
        });
        web
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let question: Value = serde_json::from_slice(&body).unwrap();
            let answer = self.answer(&question).to_string();
            self.asked.lock().unwrap().push((head, question));
            let status = if self.is_down.load(Ordering::SeqCst) { "500 Sorry" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, question: &Value) -> Value {
        let text = |field: &str| question[field].as_str().unwrap_or_default().to_owned();
        let is_allowed = match text("action").as_str() {
            "connect" => text("username") == "alice" && text("password") == "canary-password",
            "reconnect" => text("username") == "alice",
            "subscribe" => text("topic") == "news",
            "publish" => text("topic").starts_with("home/"),
            "request" => {
                return json!({"result": "allow", "data": {"you": question["username"], "sent": question["data"]}});
            }
            _ => false,
        };
        json!({"result": if is_allowed { "allow" } else { "deny" }, "reason": "because"})
    }

    fn broker(&self, more: &str) -> Broker {
        self.folder(more).start()
    }

    fn folder(&self, more: &str) -> Folder {
        let url = &self.url;
        let folder = Folder::new(&format!(
            "AUTH = 'http'\nACL = 'http'\nHTTP_AUTH_URL = '{url}'\nHTTP_ACL_URL = '{url}'\nHTTP_REQUEST_URL = '{url}'\n\
             HTTP_SECRET_FILE = 'backend.secret'\nHTTP_ACL_CACHE_SECONDS = 0\n{more}"
        ));
        folder.write("backend.secret", "canary-secret\n");
        folder
    }
}

#[tokio::test]
async fn a_web_backend_decides_about_clients_of_both_languages() {
    let web = Web::start();
    let broker = web.broker("");
    let alice = broker.login("alice", "canary-password").await.unwrap();
    let refused = refusal(broker.login("alice", "canary-wrong").await);
    assert!(refused.contains("0x8"), "{refused}");
    assert!(alice.subscribe("news", Qos::AtLeastOnce).await.is_ok());
    assert!(alice.subscribe("#", Qos::AtLeastOnce).await.is_err());

    let (mut client, token) =
        broker.jmqt_client("alice", r#"{"username":"alice","password":"canary-password"}"#);
    client.send(r#"{"pub":{"cn":"home/a","dt":1,"q":1,"id":"1"}}"#);
    client.expect_exactly(r#"{"pubAck":{"st":1,"id":"1"}}"#);
    client.send(r#"{"pub":{"cn":"other","dt":1,"q":1,"id":"2"}}"#);
    client.expect_exactly(r#"{"pubAck":{"st":7,"id":"2"}}"#);
    client.send(r#"{"pub":{"cn":"$whoami","dt":[1],"id":"3"}}"#);
    client.expect_exactly(r#"{"pubAck":{"st":1,"id":"3","dt":{"sent":[1],"you":"alice"}}}"#);
    drop(client);
    let mut client = test_support::Client::open(broker.jmqt);
    client.send_conn("alice", &token, "");
    client.expect(r#"{"connAck":{"st":1,"ts":"#);

    let asked = web.asked.lock().unwrap().clone();
    assert!(asked.iter().all(|(head, _)| head.contains("Bearer canary-secret")), "{asked:?}");
    assert!(asked.iter().any(|(_, body)| body["action"] == "reconnect"), "{asked:?}");
    let log = broker.program.log_lines("").concat();
    assert!(!log.contains("canary"), "no secret is in the log: {log}");
}

#[tokio::test]
async fn permissions_for_channels_are_kept_for_a_while() {
    let web = Web::start();
    let url = &web.url;
    let folder = Folder::new(&format!(
        "AUTH = 'http'\nACL = 'http'\nHTTP_AUTH_URL = '{url}'\nHTTP_ACL_URL = '{url}'\nHTTP_ACL_CACHE_SECONDS = 3600"
    ));
    let broker = folder.start();
    let (mut client, _) = broker.jmqt_client("alice", r#"{"username":"alice","password":"canary-password"}"#);
    for id in 0..20 {
        client.send(&format!(r#"{{"pub":{{"cn":"home/a","dt":1,"q":1,"id":"{id}"}}}}"#));
        client.expect_exactly(&format!(r#"{{"pubAck":{{"st":1,"id":"{id}"}}}}"#));
    }
    let asked = web.asked.lock().unwrap().iter().filter(|(_, body)| body["action"] == "publish").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn clients_are_told_to_try_again_later_while_the_backend_fails() {
    let web = Web::start();
    let broker = web.broker("");
    let alice = broker.login("alice", "canary-password").await.unwrap();
    web.is_down.store(true, Ordering::SeqCst);
    for _ in 0..8 {
        let refused = refusal(broker.login("alice", "canary-password").await);
        assert!(refused.contains("0x88"), "{refused}");
        assert!(alice.subscribe("news", Qos::AtLeastOnce).await.is_err());
    }
    let mut jmqt = test_support::Client::open(broker.jmqt);
    jmqt.send(r#"{"auth":{"dt":{"username":"alice","password":"canary-password"}}}"#);
    jmqt.expect(r#"{"authAck":{"st":5,"mg":"try again later"#);
    web.is_down.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while broker.login("alice", "canary-password").await.is_err() {
        assert!(start.elapsed() < DEADLINE, "the backend is not asked again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let lines = |text: &str| broker.program.log_lines(text).len();
    assert_eq!(lines("The HTTP backend has not answered 5 times in a row"), 2, "one for each URL");
    // The line may come after the answer to the client.
    broker.program.logged("The HTTP backend answers again");
}

#[test]
fn check_says_what_a_backend_decides_and_what_is_missing() {
    let web = Web::start();
    let said = text(&web.folder("").run(&["--check"]));
    for line in [
        format!(
            "Users that the HTTP backend {} (with a secret; refused if there is no answer within 5s) knows",
            web.url
        ),
        format!("Channels: the HTTP backend {}", web.url),
        "Requests to control channels ($name): the HTTP backend".to_owned(),
    ] {
        assert!(said.contains(&line), "{line} in {said}");
    }
    assert!(web.asked.lock().unwrap().is_empty() && !said.contains("canary"), "{said}");
    for (configuration, expected) in [
        ("AUTH = 'http'\nACL = 'http'", "HTTP_AUTH_URL is missing"),
        ("AUTH = 'http'\nACL = 'http'", "HTTP_ACL_URL is missing"),
        (
            "AUTH = 'http'\nACL = 'none'\nHTTP_AUTH_URL = 'http://app.example.com/'",
            "passwords would be sent unencrypted",
        ),
        (
            "AUTH = 'http'\nACL = 'none'\nHTTP_AUTH_URL = 'http://u:canary@127.0.0.1/'",
            "put the secret into a file",
        ),
        (
            "AUTH = 'anonymous'\nACL = 'none'\nHTTP_TIMEOUT_SECONDS = 10",
            "less than VALIDATOR_TIMEOUT_SECONDS",
        ),
    ] {
        let folder = Folder::new(configuration);
        for arguments in [&["--check"][..], &[]] {
            let output = folder.run(arguments);
            let said = text(&output);
            assert!(said.contains(expected) && !said.contains("canary"), "{configuration}: {said}");
            assert_eq!(output.status.code(), Some(2), "{said}");
        }
    }
}
