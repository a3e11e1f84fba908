//! `jmqt` as a process: profiles, tokens, TLS, the packet trace and `bench` with many clients.
#![cfg(feature = "cli")]

use std::path::Path;

use crate::support::command::{ended, jmqt, run, said, subscribed};
use crate::support::*;
use jmqt_client::Client;
use jmqt_server::Protocol;
use tokio::process::Command;

/// The command without a server of its own, and with this folder for profiles.
fn bare(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jmqt"));
    command.env_clear().env("HOME", home).env("APPDATA", home).args(arguments).kill_on_drop(true);
    command
}

#[tokio::test]
async fn a_profile_sets_server_and_client() {
    let server = TestServer::start().await;
    let home = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        said(&within("the end of jmqt", bare(home.path(), arguments).output()).await.unwrap())
    };
    assert_eq!(run(&["profile", "list"]).await, (Some(0), String::new(), String::new()));
    let url = url(&server, Protocol::Socket);
    let save = ["profile", "save", "home", "--url", &url, "--name", "al\"ice"];
    assert_eq!(run(&save).await.0, Some(0));
    let (code, printed, _) = run(&["profile", "list"]).await;
    assert!(code == Some(0) && printed.contains("home") && printed.contains(&url), "{printed}");
    let subscription = ["sub", "news", "--profile", "home", "-n", "1"];
    let sub = bare(home.path(), &subscription).stdout(std::process::Stdio::piped()).spawn().unwrap();
    subscribed(&server, "al\"ice", "news").await;
    let (code, ..) = run(&["pub", "news", "1", "--profile", "home", "--name", "other"]).await; // options win
    assert_eq!((code, said(&ended(sub).await).1.as_str()), (Some(0), "1\n"));
    let mut by_environment = bare(home.path(), &["pub", "news", "1"]);
    let by_environment =
        within("the end", by_environment.env("JMQT_PROFILE", "home").output()).await.unwrap();
    assert_eq!(said(&by_environment).0, Some(0));
    // It is not replaced or made up by mistake.
    for (arguments, expected) in [
        (&save[..], "--force"),
        (&["pub", "a", "1", "--profile", "work"], "no profile work"),
        (&["pub", "a", "1", "--profile", "../home"], "not a valid profile name"),
        (&["profile", "save", "empty"], "nothing to save"),
    ] {
        let (code, _, error) = run(arguments).await;
        assert!(code == Some(2) && error.contains(expected), "{arguments:?}: {error}");
    }
    assert_eq!(run(&[&save[..], &["--force"]].concat()).await.0, Some(0));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let file = home.path().join(".config/jmqt/home.conf");
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(run(&["profile", "remove", "home"]).await.0, Some(0));
    assert_eq!(run(&["pub", "a", "1", "--profile", "home"]).await.0, Some(2));
}

#[tokio::test] // §10
async fn a_token_comes_from_a_file() {
    let server = TestServer::start().await;
    let (client, token) =
        Client::authenticate(&config(&url(&server, Protocol::Socket), "alice")).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = file.to_str().unwrap();
    let publish = ["pub", "news", "1", "--client-id", client.as_str(), "--token-file", path];
    let (code, _, error) = said(&run(&server, &publish).await);
    assert!(code == Some(3) && error.contains(path), "{error}");
    std::fs::write(&file, format!("{}\n", token.reveal())).unwrap();
    let (code, _, error) = said(&run(&server, &publish).await);
    assert_eq!((code, error.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn insecure_accepts_any_certificate_with_a_warning() {
    let server = TestServer::start().await;
    for protocol in [Protocol::SslSocket, Protocol::SslWebSocket] {
        let url = url(&server, protocol);
        let publish = ["pub", "news", "1", "--url", &url];
        let (code, _, error) = said(&run(&server, &publish).await);
        assert!(code == Some(3) && error.contains("certificate"), "{error}");
        let (code, _, warning) = said(&run(&server, &[&publish[..], &["--insecure"]].concat()).await);
        assert!(code == Some(0) && warning.contains("WARNING: --insecure"), "{warning}");
    }
}

#[tokio::test]
async fn trace_shows_every_packet_but_no_secrets() {
    let server = TestServer::start().await;
    for protocol in [Protocol::Socket, Protocol::WebSocket] {
        let url = url(&server, protocol);
        let publish = ["pub", "news", "1.50", "-q", "1", "--name", "alice", "--trace", "--url", &url];
        let (code, _, trace) = said(&run(&server, &publish).await);
        assert_eq!(code, Some(0), "{trace}");
        let packets: Vec<_> = trace.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        let mut expected = [
            r#"> {"auth":{"dt":"(hidden)"}}"#,
            r#"< {"authAck":{"st":1,"at":"(hidden)","cl":"alice"}}"#,
            r#"> {"conn":{"at":"(hidden)","cl":"alice","#,
            r#"< {"connAck":{"st":1,"#,
            r#"> {"pub":{"cn":"news","dt":1.50,"q":1,"id":"1"}}"#,
            r#"< {"pubAck":{"st":1,"id":"1"}}"#,
            r#"> {"disconn":{}}"#,
        ]
        .into_iter();
        for packet in packets {
            let expected = expected.next().unwrap();
            assert!(packet.starts_with(expected), "{packet} {expected}");
        }
        assert_eq!(expected.next(), None);
    }
}

#[tokio::test]
async fn bench_publishes_and_subscribes_with_many_clients() {
    let server = TestServer::start().await;
    for (clients, publishers, subscribers) in
        [(&["--clients", "3"][..], 3, 3), (&["--publishers", "1", "--subscribers", "5", "-q", "1"], 1, 5)]
    {
        let arguments = [&["bench", "--seconds", "1", "--rate", "300", "--json"], clients].concat();
        let (code, printed, error) = said(&run(&server, &arguments).await);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(
            (&report["publishers"], &report["subscribers"]),
            (&publishers.into(), &subscribers.into())
        );
        assert_eq!(report["lost"], 0, "{printed}");
        let (published, received) =
            (report["published"].as_u64().unwrap(), report["received"].as_u64().unwrap());
        assert!(published > 0 && received == published * subscribers, "{printed}");
        assert!(report["p99_micros"].as_u64() > Some(0), "{printed}");
    }
    let (code, _, error) = said(
        &within(
            "the end",
            jmqt(&server, &["bench", "--clients", "2", "--url", "jmqt://127.0.0.1:1"]).output(),
        )
        .await
        .unwrap(),
    );
    assert!(code == Some(3) && error.contains("client ") && error.contains(" of 4: "), "{error}");
}
