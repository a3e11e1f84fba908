//! `jmqt` as a process.

use std::process::{Output, Stdio};

use jmqt_server::Protocol;
use tokio::process::{Child, Command};

use super::{TestServer, client_id, url, within};

/// The command, with this server as its own.
pub fn jmqt(server: &TestServer, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jmqt"));
    command.env_clear().env("JMQT_CLIENT_URL", url(server, Protocol::Socket)).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn run(server: &TestServer, arguments: &[&str]) -> Output {
    within("the end of jmqt", jmqt(server, arguments).output()).await.unwrap()
}

pub async fn ended(child: Child) -> Output {
    within("the end of jmqt", child.wait_with_output()).await.unwrap()
}

/// Waits until the server has this subscription.
pub async fn subscribed(server: &TestServer, client: &str, name: &str) {
    within("the subscription", async {
        while !server
            .handle()
            .subscriptions(&client_id(client))
            .await
            .unwrap()
            .iter()
            .any(|(own, _)| own.as_str() == name)
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The command without a server of its own, and without configuration.
pub fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jmqt"));
    command.env_clear().args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn run_bare(arguments: &[&str]) -> (Option<i32>, String, String) {
    said(&within("the end of jmqt", bare(arguments).output()).await.unwrap())
}
