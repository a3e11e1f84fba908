//! The sample client as a process with a log, connected to the sample server as a process.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use jmqt_client::{ChannelName, Client, Config, Persistence, Publish};
use test_support::{DEADLINE, Program, command};

/// Waits for the next log line with this text, and returns what follows the text.
#[track_caller]
fn logged(program: &Program, text: &str) -> String {
    program.next_logged(text).split_once(text).unwrap().1.to_owned()
}

/// The sample server beside this test's own binary, made if it is not there.
fn sample_server() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_sample_client")).parent().unwrap();
    let path = folder.join(format!("sample_server{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "sample_server"]).status().unwrap();
        assert!(built.success());
    }
    path
}

fn server(folder: &Path, port: u16) -> (Program, u16) {
    let mut command = command(sample_server());
    command.args(["--web-port", "0"]);
    command.current_dir(folder).env("JMQT_BIND_ADDRESS", "127.0.0.1").env("JMQT_WEBSOCKET_PORT", "0");
    command.env("JMQT_SOCKET_PORT", port.to_string()).env("JMQT_SQLITE_PATH", folder.join("jmqt.db"));
    let program = Program::start(&mut command);
    let address = logged(&program, "Listening on tcp ");
    (program, address.trim().rsplit(':').next().unwrap().parse().unwrap())
}

fn client(folder: &Path, port: u16, arguments: &[&str]) -> Program {
    std::fs::write(folder.join("client.conf"), format!("REMOTE_HOST = '127.0.0.1'\nREMOTE_PORT = {port}\n"))
        .unwrap();
    let mut command = command(env!("CARGO_BIN_EXE_sample_client"));
    Program::start(command.current_dir(folder).args(arguments))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_publishes_the_time_logs_pushes_and_leaves_with_disconn() {
    let folder = tempfile::tempdir().unwrap();
    let (server, port) = server(folder.path(), 0);
    let mut sample = client(folder.path(), port, &["--config", "client.conf"]);
    logged(&sample, "Subscribed to 'mychannel'");

    let config = Config::url(&format!("jmqt://127.0.0.1:{port}")).unwrap();
    let web = Client::connect(config.auth(r#"{"client_name":"webclient"}"#).unwrap()).await.unwrap();
    let mychannel = ChannelName::parse("mychannel").unwrap();
    let mut stream = web.subscribe(&mychannel, Persistence::Temporary).await.unwrap();
    let push = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
    assert_eq!((push.publisher(), push.json::<String>().unwrap().len()), ("sample", 19));
    web.publish(&Publish::json(mychannel, "hello").unwrap().at_least_once()).await.unwrap();
    assert_eq!(logged(&sample, "Data on 'mychannel' from webclient : "), r#""hello" (QOS 1, RETAIN 0)"#);

    sample.signal("INT");
    assert!(sample.wait().success());
    assert!(logged(&server, "disconnects").contains("client=sample"));
}

#[test]
fn it_retries_until_the_server_is_available_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, port) = server(folder.path(), 0);
    let sample = client(folder.path(), port, &["--every", "1", "bob"]);
    logged(&sample, "Published on 'mychannel'");
    first.kill();
    logged(&sample, "Disconnected : ");
    let (_second, _) = server(folder.path(), port);
    logged(&sample, "Connected");
    logged(&sample, "Published on 'mychannel'");
}

#[test]
fn a_wrong_setting_stops_the_start_with_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("client.conf"), "REMOTE_PORTS = 1\n").unwrap();
    let output = test_support::run(command(env!("CARGO_BIN_EXE_sample_client")).current_dir(folder.path()));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected =
        "sample_client: client.conf, line 1: REMOTE_PORTS: there is no such key; did you mean REMOTE_PORT?";
    assert!(said.starts_with(expected), "{said}");
}
