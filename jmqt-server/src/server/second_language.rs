//! Tests of a second language: clients that speak lines of text and clients that speak JMQT use the same channels of one
//! hub, which is independent of both.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::{AllowAll, DenyAll};

/// A client of either language: it ends its packets with a NUL byte, and receives packets that end with `end`.
struct Client {
    stream: BufReader<TcpStream>,
    end: u8,
}

impl Client {
    async fn connect(server: &Server, protocol: Protocol) -> Self {
        let stream = TcpStream::connect(server.local_addr(protocol).unwrap()).await.unwrap();
        let end = if protocol == Protocol::Lines { b'\n' } else { 0 };
        Self { stream: BufReader::new(stream), end }
    }

    /// Opens a session of the line language.
    async fn lines(server: &Server, name: &str) -> Self {
        let mut client = Self::connect(server, Protocol::Lines).await;
        client.says(&format!("CONN {name}"), "CONN 1").await;
        client
    }

    /// Opens a session of JMQT.
    async fn jmqt(server: &Server, name: &str) -> Self {
        let mut client = Self::connect(server, Protocol::Socket).await;
        client.send(&format!(r#"{{"conn":{{"at":"","cl":"{name}"}}}}"#)).await;
        assert!(client.next().await.starts_with(r#"{"connAck":{"st":1"#));
        client
    }

    async fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(format!("{text}\0").as_bytes()).await.unwrap();
    }

    /// Sends a packet, and expects this answer.
    async fn says(&mut self, text: &str, answer: &str) {
        self.send(text).await;
        assert_eq!(self.next().await, answer);
    }

    /// The next packet; empty at the end of the connection.
    async fn next(&mut self) -> String {
        let mut piece = Vec::new();
        let reading = self.stream.read_until(self.end, &mut piece);
        timeout(Duration::from_secs(60), reading).await.expect("it takes too long").unwrap();
        piece.pop();
        String::from_utf8(piece).unwrap()
    }

    async fn ends(mut self) {
        let mut rest = Vec::new();
        timeout(Duration::from_secs(60), self.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

async fn start() -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        sqlite_path: folder.path().join("jmqt.db"),
        bind_address: [127, 0, 0, 1].into(),
        socket_port: Some(0),
        websocket_port: None,
        ..Config::default()
    };
    let builder = Server::builder(config)
        .validate_auth(DenyAll)
        .validate_conn(AllowAll)
        .validate_sub(AllowAll)
        .validate_pub(AllowAll);
    let mut server = builder.start().await.unwrap();
    let lines = Listener::bind(([127, 0, 0, 1], 0).into(), Protocol::Lines, None).unwrap();
    server.listen(vec![lines]);
    (folder, server)
}

#[tokio::test]
async fn clients_of_two_languages_meet_on_a_channel() {
    let (_folder, server) = start().await;
    let mut lena = Client::lines(&server, "lena").await;
    let mut bob = Client::jmqt(&server, "bob").await;
    lena.says("SUB news", "SUB news 1").await;
    bob.says(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    lena.send("PUB news hello bob").await;
    assert_eq!(bob.next().await, r#"{"push":{"cn":"news","dt":"hello bob","cl":"lena"}}"#);
    bob.send(r#"{"pub":{"cn":"news","dt":{"hello":"lena"}}}"#).await;
    assert_eq!(lena.next().await, r#"MSG news {"hello":"lena"}"#);
    // Another line client gets the same bytes from the same run.
    let mut lars = Client::lines(&server, "lars").await;
    lars.says("SUB news", "SUB news 1").await;
    bob.send(r#"{"pub":{"cn":"news","dt":2}}"#).await;
    assert_eq!((lena.next().await, lars.next().await), ("MSG news 2".into(), "MSG news 2".into()));
    lena.says("UNSUB news", "UNSUB news 1").await;
    server.shutdown().await;
    assert_eq!((lena.next().await, lars.next().await), ("END 4000".into(), "END 4000".into()));
    lena.ends().await;
}

#[tokio::test] // protocol.md 2.12, 2.13
async fn stored_and_retained_messages_cross_from_one_language_to_the_other() {
    let (_folder, server) = start().await;
    let mut lena = Client::lines(&server, "lena").await;
    let mut bob = Client::jmqt(&server, "bob").await;
    lena.says("SUB1 log", "SUB log 1").await;
    bob.says(r#"{"sub":{"cn":"log","pr":1}}"#, r#"{"subAck":{"st":1,"cn":"log"}}"#).await;
    lena.says("PUB1 a log one", "DONE a 1").await;
    let push = bob.next().await;
    assert!(push.starts_with(r#"{"push":{"cn":"log","dt":"one","cl":"lena","q":1,"id":""#), "{push}");
    bob.says(r#"{"pub":{"cn":"log","dt":"two","q":1,"id":"b"}}"#, r#"{"pubAck":{"st":1,"id":"b"}}"#).await;
    let line = lena.next().await;
    let [_, id, ..] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_eq!(line, format!(r#"MSG1 {id} log "two""#));
    // The acknowledged message is not sent again; a message published during the absence is.
    lena.send(&format!("GOT {id}")).await;
    lena.send("BYE").await;
    lena.ends().await;
    bob.says(r#"{"pub":{"cn":"log","dt":"three","q":1,"id":"c"}}"#, r#"{"pubAck":{"st":1,"id":"c"}}"#).await;
    let mut lena = Client::lines(&server, "lena").await;
    let line = lena.next().await;
    assert!(line.starts_with("MSG1 ") && line.ends_with(r#" log "three""#), "{line}");
    // A message retained in one language is read in the other, in both directions.
    lena.send("KEEP weather rain").await;
    bob.says(r#"{"sub":{"cn":"weather"}}"#, r#"{"subAck":{"st":1,"cn":"weather"}}"#).await;
    assert_eq!(bob.next().await, r#"{"push":{"cn":"weather","dt":"rain","cl":"lena","rt":1}}"#);
    bob.send(r#"{"pub":{"cn":"mood","dt":[1],"rt":1}}"#).await;
    bob.says(r#"{"hb":{}}"#, r#"{"hbAck":{}}"#).await;
    lena.says("SUB mood", "SUB mood 1").await;
    assert_eq!(lena.next().await, "KEPT mood [1]");
    server.shutdown().await;
}

#[tokio::test] // protocol.md 2.4, 2.22
async fn one_client_has_one_session_in_either_language() {
    let (_folder, server) = start().await;
    let mut first = Client::lines(&server, "lena").await;
    let mut second = Client::jmqt(&server, "lena").await;
    assert_eq!(first.next().await, "END 4500");
    first.ends().await;
    let third = Client::lines(&server, "lena").await;
    assert!(second.next().await.starts_with(r#"{"disconn":{"st":4500"#));
    drop(third);
    server.shutdown().await;
}
