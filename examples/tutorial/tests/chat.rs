//! The chat as a process; docs/tutorial.md shows the program that is tested here.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ChildStdin;

use jmqt_client::{Client, Config, Persistence, Publish, StatusCode, Subscription};
use serde::Deserialize;
use tempfile::TempDir;
use test_support::{DEADLINE, Program, command};

#[derive(Deserialize)]
struct Message {
    text: String,
}

struct Chat {
    program: Program,
    terminal: ChildStdin,
    url: String,
    _folder: TempDir,
}

impl Chat {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(env!("CARGO_BIN_EXE_tutorial"));
        command.current_dir(folder.path()).env("JMQT_SOCKET_PORT", "0").env("JMQT_WEBSOCKET_PORT", "0");
        let (program, terminal) = Program::start_with_input(&mut command);
        let line = program.logged("Listening on tcp ");
        let port = line.trim().rsplit(':').next().unwrap();
        Self { url: format!("jmqt://127.0.0.1:{port}"), program, terminal, _folder: folder }
    }

    /// Connects with the data of an `auth`.
    async fn enter(&self, credentials: &str) -> Result<Client, jmqt_client::ConnectError> {
        let config = Config::url(&self.url).unwrap().auth(credentials).unwrap();
        tokio::time::timeout(DEADLINE, Client::connect(config)).await.unwrap()
    }
}

async fn next(stream: &mut Subscription) -> (String, String) {
    let push = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
    (push.publisher().to_owned(), push.json::<Message>().unwrap().text)
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_up_and_talk_and_the_server_announces() {
    let mut chat = Chat::start();
    let alice = chat.enter(r#"{"username":"alice","password":"a long one","sign_up":true}"#).await.unwrap();
    let mut lobby = alice.subscribe("room/lobby", Persistence::Persistent).await.unwrap();
    let mut announcements = alice.subscribe("room/announcements", Persistence::Persistent).await.unwrap();
    let bob = chat.enter(r#"{"username":"bob","password":"another one","sign_up":true}"#).await.unwrap();
    let hello = Publish::json("room/lobby", &serde_json::json!({"text": "Hello"})).unwrap().at_least_once();
    bob.publish(&hello).await.unwrap();
    assert_eq!(next(&mut lobby).await, ("bob".to_owned(), "Hello".to_owned()));
    writeln!(chat.terminal, "Lunch").unwrap();
    assert_eq!(next(&mut announcements).await.1, "Lunch");

    for (channel, data) in [
        ("room/announcements", r#"{"text":"I am the boss"}"#),
        ("elsewhere", r#"{"text":"Hello"}"#),
        ("room/lobby", r#"{"words":"Hello"}"#),
        ("room/lobby", r#"{"text":""}"#),
    ] {
        let refused = bob.publish(&Publish::raw(channel, data).unwrap().at_least_once()).await;
        assert!(matches!(refused, Err(jmqt_client::Error::Refused { .. })), "{channel} {data}: {refused:?}");
    }
    let refused = bob.subscribe("elsewhere", Persistence::Temporary).await.unwrap_err();
    assert!(
        matches!(refused, jmqt_client::Error::Refused { status: StatusCode::NOT_ALLOWED, .. }),
        "{refused}"
    );

    // The terminal is still open: the end does not wait for it.
    chat.program.signal("TERM");
    assert_eq!(chat.program.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_belongs_to_who_has_created_it() {
    let chat = Chat::start();
    chat.enter(r#"{"username":"alice","password":"a long one","sign_up":true}"#).await.unwrap();
    for (credentials, why) in [
        (r#"{"username":"alice","password":"another one","sign_up":true}"#, "the name alice is taken"),
        (r#"{"username":"mallory","password":"short","sign_up":true}"#, "at least 8 characters"),
        (r#"{"username":"al:ice","password":"a long one","sign_up":true}"#, ":"),
        (r#"{"username":"alice","password":"another one"}"#, ""),
        (r#"{"username":"nobody","password":"another one"}"#, ""),
        ("null", ""),
    ] {
        let refused = chat.enter(credentials).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{credentials}: {refused}");
    }
    chat.enter(r#"{"username":"alice","password":"a long one"}"#).await.unwrap();
}

#[test]
fn the_document_shows_this_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(folder.join("../../docs/tutorial.md")).unwrap();
    let program = fs::read_to_string(folder.join("src/main.rs")).unwrap();
    let page = fs::read_to_string(folder.join("page/index.html")).unwrap();
    let blocks = |language: &str| -> Vec<String> {
        let begin = format!("```{language}\n");
        document.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    };
    let head = program.split_once("\n\n").unwrap().1; // without the comment that names the document
    assert_eq!(blocks("rust").join("\n"), head);
    assert_eq!(blocks("html"), [page]);
}
