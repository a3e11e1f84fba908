//! The `jmqt` commands of the documents work as described.

use std::path::Path;
use std::process::Stdio;

use jmqt_server::Protocol;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{in_language, shell};
use crate::support::{TestServer, channel, connect, url, within};

/// Lines that cannot be tried here, and why.
const BY_HAND: [(&str, &str); 3] = [
    ("jmqt doctor --url wss://example.com", "there is no server at that address"),
    ("jmqt admin connections --begins sensor-", ADMIN),
    (r#"jmqt admin publish news '{"headline":"rain"}' -q 1 --once order-7"#, ADMIN),
];
const ADMIN: &str = "this server has no listener for operators; command_line_admin.rs has one";

/// A server for JMQT and MQTT.
async fn server() -> TestServer {
    TestServer::configured(|config| config.mqtt_port = Some(0)).await
}

/// A line of a document, with `jmqt` and this server as its own, whose ports are not the usual ones. `folder` is also the home,
/// where the programs of Mosquitto find a file with the port.
fn shell(server: &TestServer, folder: &Path, line: &str) -> Command {
    let mqtt = server.address(Protocol::Mqtt).port();
    let configuration = folder.join(".config");
    std::fs::create_dir_all(&configuration).unwrap();
    for program in ["mosquitto_pub", "mosquitto_sub"] {
        std::fs::write(configuration.join(program), format!("-h 127.0.0.1\n-p {mqtt}\n")).unwrap();
    }
    let line = line.replace("@localhost", &format!("@localhost:{mqtt}"));
    let programs = Path::new(env!("CARGO_BIN_EXE_jmqt")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder)
        .env("JMQT_CLIENT_URL", url(server, Protocol::Socket));
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
        let server = server().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_and_a_device_talk_as_the_readme_shows() {
    if std::process::Command::new("mosquitto_pub").arg("--help").output().is_err() {
        eprintln!("left out: there is no mosquitto_pub; it is in the package mosquitto-clients");
        return;
    }
    let snippets = in_language("sh");
    let wanted =
        |snippet: &&super::Snippet| snippet.file == "README.md" && snippet.text.contains("mosquitto_pub");
    let lines: Vec<_> = snippets.iter().find(wanted).unwrap().text.lines().collect();
    let (server, folder) = (server().await, tempfile::tempdir().unwrap());
    // Lines that wait for a message, with the channel that they wait on and what they print in the end.
    let (mut waiting, mut ended) = (Vec::new(), 0);
    for line in lines {
        let (code, comment) = line.split_once(" #").unwrap();
        match code.trim().strip_suffix(" &") {
            Some(endless) => {
                let mut child = shell(&server, folder.path(), &format!("exec {endless}")).spawn().unwrap();
                let name =
                    ["room/lamp", "room/temperature"].into_iter().find(|name| code.contains(name)).unwrap();
                subscribed(&server, name, &mut child).await;
                waiting.push((child, name));
            }
            None => {
                let output = within(code, shell(&server, folder.path(), code).output()).await.unwrap();
                assert!(output.status.success(), "{code}: {output:?}");
                ended += 1;
                let Some((_, printed)) = comment.split_once(" prints ") else { continue };
                let at = waiting.iter().position(|(_, name)| code.contains(name)).unwrap();
                let (mut child, _) = waiting.remove(at);
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                assert_eq!(within("a line", lines.next_line()).await.unwrap().unwrap(), printed, "{line}");
                child.kill().await.unwrap();
            }
        }
    }
    assert_eq!((waiting.len(), ended), (0, 3));
}
