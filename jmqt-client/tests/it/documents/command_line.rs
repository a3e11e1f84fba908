//! The `jmqt` commands of the documents work as described.

use std::path::Path;
use std::process::Stdio;

use jmqt_server::Protocol;
use tokio::process::{Child, Command};

use super::{in_language, shell};
use crate::support::{TestServer, channel, connect, url, within};

/// Lines that cannot be tried here, and why.
const BY_HAND: [(&str, &str); 1] =
    [("jmqt doctor --url wss://example.com", "there is no server at that address")];

/// A line of a document, with `jmqt` and this server as its own.
fn shell(server: &TestServer, folder: &Path, line: &str) -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_jmqt")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.env_clear().env("PATH", path).env("JMQT_CLIENT_URL", url(server, Protocol::Socket));
    command.args(["-c", &format!("set -o pipefail; {line}")]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Waits until somebody is subscribed to the channel.
async fn subscribed(server: &TestServer, name: &str, child: &mut Child) {
    within("a subscription", async {
        while server.handle().subscribers(&channel(name)).is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_in_the_documents_run() {
    let mut tried = 0;
    for snippet in in_language("sh") {
        let server = TestServer::start().await;
        let _alice = connect(&server, "alice").await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log"), "one line\nanother\n").unwrap();
        let mut endless = Vec::new();
        for line in snippet.text.lines() {
            let commands = shell::commands(line);
            let Some(words) = commands.iter().find(|words| words[0] == "jmqt") else { continue };
            let code = line.split(" #").next().unwrap_or_default().trim();
            if BY_HAND.iter().any(|(by_hand, _)| *by_hand == code) {
                continue;
            }
            let place = format!("{}: {code}", snippet.place());
            tried += 1;
            match &*words[1] {
                "sub" | "reply" => {
                    let line = format!("exec {}", code.trim_end_matches(" &"));
                    let mut child = shell(&server, folder.path(), &line).spawn().unwrap();
                    subscribed(&server, &words[2], &mut child).await;
                    endless.push(child);
                }
                _ => {
                    let line = code.replace("tail -f log", "tail log");
                    let output = within(&place, shell(&server, folder.path(), &line).output()).await.unwrap();
                    let error = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{place}: {error}");
                }
            }
        }
        for mut child in endless {
            child.kill().await.unwrap();
        }
    }
    assert!(tried >= 12, "{tried}");
}
