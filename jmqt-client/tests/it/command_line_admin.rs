//! `jmqt admin` as a process, against a server in this one.
#![cfg(feature = "cli")]

use std::path::Path;
use std::process::{Output, Stdio};

use crate::support::command::{ended, said, subscribed};
use crate::support::*;
use jmqt_server::admin::{Scope, add_key};
use tokio::io::AsyncWriteExt;

/// A server with an operator's key.
struct Operated {
    server: TestServer,
    folder: tempfile::TempDir,
    key: String,
}

impl Operated {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("admin.keys");
        let key = add_key(&keys, "alice", Scope::Write).unwrap();
        let server = TestServer::configured(|config| {
            config.admin_address = Some(([127, 0, 0, 1], 0).into());
            config.admin_keys_file = Some(keys);
        })
        .await;
        Self { server, folder, key }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::from(test_support::command(env!("CARGO_BIN_EXE_jmqt")));
        let address = self.server.running().admin_addr().unwrap();
        command.arg("admin").arg("--address").arg(address.to_string()).args(arguments);
        command.env("JMQT_ADMIN_KEY", &self.key).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).spawn().unwrap();
        // A program that reads no input may have ended before.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        ended(child).await
    }

    /// What a command prints that must succeed.
    async fn print(&self, arguments: &[&str]) -> String {
        let (code, printed, error) = said(&self.run_with(arguments, "").await);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
        printed
    }
}

#[tokio::test]
async fn an_operator_sees_and_changes_a_server() {
    let operated = Operated::start().await;
    let alice = connect(&operated.server, "alice").await;
    let connections = operated.print(&["connections"]).await;
    let lines: Vec<&str> = connections.lines().collect();
    assert!(
        lines[0].starts_with("CLIENT  ADDRESS") && lines[1].starts_with("alice   127.0.0.1:"),
        "{connections}"
    );
    assert_eq!(lines[2], "1 of 1");
    assert_eq!(operated.print(&["subscribe", "alice", "news", "-p"]).await, "subscribed\n");
    subscribed(&operated.server, "alice", "news").await;
    assert_eq!(
        operated.print(&["publish", "news", "{\"a\": 1.50}", "-q", "1", "--once", "7"]).await,
        "published\n"
    );
    assert_eq!(
        operated.print(&["publish", "news", "{\"a\": 1.50}", "-q", "1", "--once", "7"]).await,
        "published\n"
    );
    let push = within("a push", alice.pushes().next()).await.unwrap();
    assert_eq!(push.data(), "{\"a\": 1.50}");
    let many = "{\"channel\":\"news\",\"data\":1}\n{\"channel\":\"$news\",\"data\":2}\n{\"channel\":\"news\",\"data\":3}\n";
    let (code, printed, error) = said(&operated.run_with(&["publish-many"], many).await);
    assert_eq!((code, printed.as_str()), (Some(4), "published 2\n"));
    assert!(error.contains("line 2: a control channel has no messages"), "{error}");
    let shown = operated.print(&["connection", "alice"]).await;
    assert!(shown.contains("news") && shown.contains("in_flight"), "{shown}");
    assert_eq!(operated.print(&["unsubscribe", "alice", "news"]).await, "unsubscribed\n");
    assert_eq!(operated.print(&["retained", "set", "lamp", "on"]).await, "published\n");
    assert_eq!(operated.print(&["retained", "list"]).await, "lamp\n");
    assert_eq!(operated.print(&["retained", "get", "lamp"]).await, "\"on\"\n");
    assert_eq!(operated.print(&["retained", "clear", "lamp"]).await, "deleted\n");
    assert_eq!(operated.print(&["disconnect", "alice", "--keep-out"]).await, "disconnected\n");
    let ready = operated.print(&["ready"]).await;
    assert!(ready.contains("store    ok"), "{ready}");
    assert!(operated.print(&["metrics"]).await.contains("# TYPE jmqt_sessions gauge\n"));
    let counters: serde_json::Value =
        serde_json::from_str(&operated.print(&["counters", "--json"]).await).unwrap();
    assert!(counters["counters"]["messages_published"].as_u64().unwrap() >= 3, "{counters}");
}

#[tokio::test]
async fn refusals_and_a_missing_server_have_their_exit_codes_and_show_no_key() {
    let operated = Operated::start().await;
    let refused = |output: &Output, code: i32, part: &str| {
        let (is, printed, error) = said(output);
        assert_eq!(is, Some(code), "{printed}{error}");
        assert!(error.contains(part) && !error.contains("jmqt_"), "{error}");
    };
    refused(
        &operated.run_with(&["connection", "nobody"], "").await,
        4,
        "there is no client \"nobody\" (parameter client)",
    );
    refused(&operated.run_with(&["publish", "$control", "1"], "").await, 4, "(body.channel)");
    let wrong = operated.command(&["nodes"]).env("JMQT_ADMIN_KEY", "jmqt_wrong").spawn().unwrap();
    refused(&ended(wrong).await, 4, "the key is not valid (header Authorization)");
    let none = operated.command(&["nodes"]).env_remove("JMQT_ADMIN_KEY").spawn().unwrap();
    refused(&ended(none).await, 4, "--key-file FILE");
    let file = operated.folder.path().join("key");
    std::fs::write(&file, format!("{}\n", operated.key)).unwrap();
    let by_file = ["--key-file", Path::to_str(&file).unwrap(), "nodes"];
    let by_file = operated.command(&by_file).env_remove("JMQT_ADMIN_KEY").spawn().unwrap();
    assert_eq!(said(&ended(by_file).await).0, Some(0));
    let mut nobody = tokio::process::Command::from(test_support::command(env!("CARGO_BIN_EXE_jmqt")));
    let nobody = nobody.args(["admin", "--address", "127.0.0.1:1", "ready"]).kill_on_drop(true);
    let nobody = nobody.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    refused(&ended(nobody).await, 3, "is the server running");
}
