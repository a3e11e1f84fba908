//! `jmqt` as a process, against a server in this one.
#![cfg(feature = "cli")]

use std::process::Stdio;

use crate::support::command::{ended, jmqt, run, said, subscribed};
use crate::support::*;
use jmqt_client::{Persistence, Publish, StatusCode};
use jmqt_server::Protocol;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn sub_prints_what_pub_publishes() {
    let server = TestServer::start().await;
    let mut sub = jmqt(&server, &["sub", "news", "-n", "4", "--name", "reader", "-H"]);
    let mut sub = sub.stdout(Stdio::piped()).spawn().unwrap();
    subscribed(&server, "reader", "news").await;
    for arguments in
        [&["pub", "news", "1.50", "--name", "w"][..], &["pub", "-q", "1", "news", "two words", "--name", "w"]]
    {
        let (code, _, error) = said(&run(&server, arguments).await);
        assert_eq!((code, error.as_str()), (Some(0), ""));
    }
    let mut lines = jmqt(&server, &["pub", "-l", "news", "--name", "w", "--json"]);
    let mut child = lines.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"3\n\n  \n{\"four\":4}\n").await.unwrap();
    assert_eq!(said(&ended(child).await).1, "{\"published\":2}\n");
    let mut printed = BufReader::new(sub.stdout.take().unwrap()).lines();
    for expected in [
        r#"news from "w" (QOS 0, RETAIN 0): 1.50"#,
        r#"news from "w" (QOS 1, RETAIN 0): "two words""#,
        r#"news from "w" (QOS 0, RETAIN 0): 3"#,
        r#"news from "w" (QOS 0, RETAIN 0): {"four":4}"#,
    ] {
        assert_eq!(within("a line", printed.next_line()).await.unwrap().unwrap(), expected);
    }
    assert!(within("the end", sub.wait()).await.unwrap().success());
}

#[tokio::test]
async fn messages_come_from_files_and_stay_as_retained() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("message.json");
    std::fs::write(&file, "{\"a\": [1.50]}\n").unwrap();
    let (code, _, error) =
        said(&run(&server, &["pub", "-r", "-q", "1", "-f", file.to_str().unwrap(), "news"]).await);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let (code, printed, _) = said(&run(&server, &["sub", "news", "-n", "1", "--json"]).await);
    assert_eq!(code, Some(0));
    assert!(
        printed.contains(r#""retained":true"#) && printed.contains(r#""data":{"a": [1.50]}"#),
        "{printed}"
    );
}

#[tokio::test] // §9.d
async fn request_prints_the_reply_and_p2p_reaches_one_client() {
    let server = TestServer::start().await;
    let (code, printed, _) = said(&run(&server, &["request", "$echo", "[1.50]"]).await);
    assert_eq!((code, printed.as_str()), (Some(0), "[1.50]\n"));
    let bob = connect(&server, "bob").await;
    let (code, ..) = said(&run(&server, &["p2p", "bob", "7", "-q", "1"]).await);
    assert_eq!(code, Some(0));
    assert_eq!(within("a push", bob.pushes().next()).await.unwrap().data(), "7");
    let (code, _, error) = said(&run(&server, &["p2p", "nobody", "7", "-q", "1"]).await);
    assert_eq!(
        (code, error.as_str()),
        (Some(4), "jmqt: p2p #nobody: refused, 8 CLIENT_OFFLINE (no such client is connected)\n")
    );
}

#[tokio::test]
async fn exit_codes_distinguish_the_causes() {
    let server = TestServer::start().await;
    let (code, _, error) = said(&run(&server, &["sub"]).await);
    assert!(code == Some(2) && error.contains("Usage"), "{error}");
    let (code, _, error) = said(&run(&server, &["pub", "news", "1", "--url", "http://x"]).await);
    assert!(code == Some(2) && error.contains("`http` is no scheme"), "{error}");
    let (code, _, error) = said(&run(&server, &["pub", "news", "1", "--url", "jmqt://127.0.0.1:1"]).await);
    assert!(code == Some(3) && error.contains("cannot connect to 127.0.0.1:1"), "{error}");
    assert!(error.contains("Is the server running"), "{error}");
    let (code, _, error) = said(&run(&server, &["sub", "news", "--timeout", "0.2"]).await);
    assert_eq!((code, error.as_str()), (Some(5), "jmqt: the time limit has passed (--timeout)\n"));
    server.app.set(Asked::Auth, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, _, error) = said(&run(&server, &["pub", "news", "1"]).await);
    assert!(code == Some(4) && error.contains("7 NOT_ALLOWED"), "{error}");
}

#[tokio::test]
async fn doctor_shows_every_step_and_a_fix() {
    let server = TestServer::start().await;
    let ca = server.certificate_path();
    let tls = url(&server, Protocol::SslWebSocket).replace("127.0.0.1", "localhost");
    let (code, printed, error) =
        said(&run(&server, &["doctor", "--url", &tls, "--ca", ca.to_str().unwrap()]).await);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{printed}");
    for step in ["name", "TCP", "TLS", "WebSocket", "auth", "conn", "until", "Everything works."] {
        assert!(printed.contains(step), "{step}: {printed}");
    }
    let (code, printed, error) = said(&run(&server, &["doctor", "--url", &tls]).await);
    assert!(code == Some(3) && printed.contains("SSL_CA_PATH"), "{printed}{error}");
    assert_eq!(error, "jmqt: failed: TLS\n"); // The cause is told once.
    assert!(printed.contains("FAIL  TLS"), "{printed}");
    let socket = url(&server, Protocol::Socket).replace("jmqt://", "ws://");
    let (_, printed, _) = said(&run(&server, &["doctor", "--url", &socket]).await);
    assert!(printed.contains("FAIL  WebSocket"), "{printed}");
    let (_, printed, _) = said(&run(&server, &["doctor", "--json"]).await);
    assert!(printed.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{printed}");
}

#[tokio::test]
async fn ping_and_bench_print_what_they_measured() {
    let server = TestServer::start().await;
    let (code, printed, error) = said(&run(&server, &["ping", "-n", "3", "--interval", "1"]).await);
    assert!(code == Some(0) && printed.lines().count() == 4, "{printed}{error}");
    let (code, printed, error) =
        said(&run(&server, &["bench", "--seconds", "1", "-q", "1", "--rate", "1000", "--json"]).await);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&report["lost"], report["published"] == report["received"]), (&0.into(), true), "{printed}");
    // As fast as it goes, a window keeps QoS 0 from being dropped.
    let (code, printed, error) = said(&run(&server, &["bench", "--seconds", "1", "--json"]).await);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["lost"], 0, "{printed}");
}

#[tokio::test]
async fn a_closed_output_pipe_is_no_error() {
    let server = TestServer::start().await;
    let mut sub = jmqt(&server, &["sub", "news", "--name", "reader"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    subscribed(&server, "reader", "news").await;
    drop(sub.stdout.take());
    let bob = connect(&server, "bob").await;
    bob.publish(&Publish::raw(channel("news"), "1").unwrap()).await.unwrap();
    let ended = ended(sub).await;
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn completions_and_the_manual_page_exist() {
    let server = TestServer::start().await;
    for shell in ["bash", "zsh", "fish"] {
        let (code, printed, _) = said(&run(&server, &["completions", shell]).await);
        assert!(code == Some(0) && printed.contains("doctor"), "{shell}");
    }
    let (code, printed, _) = said(&run(&server, &["man"]).await);
    assert!(code == Some(0) && printed.contains(".TH"));
    let (code, printed, _) = said(&run(&server, &["man", "sub"]).await);
    assert!(code == Some(0) && printed.contains("Subscribe to channels") && printed.contains("FORMAT"));
    assert_eq!(said(&run(&server, &["man", "nothing"]).await).0, Some(2));
    let folder = tempfile::tempdir().unwrap();
    let (code, ..) = said(&run(&server, &["man", "--directory", folder.path().to_str().unwrap()]).await);
    assert_eq!(code, Some(0));
    for page in ["jmqt.1", "jmqt-pub.1", "jmqt-reply.1", "jmqt-profile-save.1"] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".TH") && text.contains("url"), "{page}");
    }
}

#[tokio::test]
async fn a_persistent_subscription_delivers_missed_messages() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    let sub = ["sub", "-p", "news", "-n", "1", "--name", "reader"];
    let first = jmqt(&server, &sub).stdout(Stdio::piped()).spawn().unwrap();
    subscribed(&server, "reader", "news").await;
    let message = |data: i32| Publish::json(channel("news"), &data).unwrap().at_least_once();
    bob.publish(&message(1)).await.unwrap();
    assert_eq!(said(&ended(first).await).1, "1\n");
    bob.publish(&message(2)).await.unwrap();
    assert_eq!(said(&run(&server, &sub).await).1, "2\n");
}

#[tokio::test] // §9.a: what nobody has seen is not acknowledged
async fn messages_of_other_channels_stay_on_the_server() {
    let server = TestServer::start().await;
    let carol = client_id("carol");
    for name in ["bills", "#carol"] {
        server.handle().force_sub(&carol, &channel(name), Persistence::Persistent).await.unwrap();
    }
    let bob = connect(&server, "bob").await;
    let bill = Publish::json("bills", &3).unwrap().at_least_once();
    bob.publish(&bill).await.unwrap();
    let letter = Publish::to_client(&carol, &"for you").unwrap().at_least_once();
    // Stored, though she is away (protocol.md 2.21).
    assert_eq!(bob.publish(&letter).await.unwrap_err().status(), StatusCode::CLIENT_OFFLINE);

    let sub = ["sub", "foo", "-n", "1", "--name", "carol"];
    let mut child = jmqt(&server, &sub).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = String::new();
    for _ in 0..2 {
        let note = within("a note", notes.next_line()).await.unwrap().unwrap();
        assert!(note.contains("they are not shown"), "{note}");
        told.extend([&note, "\n"]);
    }
    for expected in ["jmqt sub 'bills' -p --name carol\n", "jmqt sub '#me' --name carol\n"] {
        assert!(told.contains(expected), "{told} {expected}");
    }
    bob.publish(&Publish::json("foo", &1).unwrap()).await.unwrap();
    assert_eq!(said(&ended(child).await).1, "1\n");

    let both = ["sub", "bills", "#me", "-n", "2", "--name", "carol", "--format", "%c %p %d %q%%"];
    let printed = said(&run(&server, &both).await).1;
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [r##"#carol bob "for you" 1%"##, "bills bob 3 1%"]);
    // Now they have been seen.
    let (code, printed, _) =
        said(&run(&server, &["sub", "bills", "#me", "--name", "carol", "--timeout", "0.3"]).await);
    assert_eq!((code, printed.as_str()), (Some(5), ""));
}

#[tokio::test]
async fn many_messages_of_another_channel_delay_nothing_and_unsub_ends_them() {
    let server = TestServer::start().await;
    server.handle().force_sub(&client_id("carol"), &channel("bills"), Persistence::Persistent).await.unwrap();
    let bob = connect(&server, "bob").await;
    for number in 0..200 {
        bob.publish(&Publish::json("bills", &number).unwrap().at_least_once()).await.unwrap();
    }
    let sub =
        jmqt(&server, &["sub", "foo", "-n", "1", "--name", "carol"]).stdout(Stdio::piped()).spawn().unwrap();
    subscribed(&server, "carol", "foo").await;
    bob.publish(&Publish::json("foo", &1).unwrap().at_least_once()).await.unwrap();
    assert_eq!(said(&ended(sub).await).1, "1\n");
    let (code, printed, _) = said(&run(&server, &["unsub", "bills", "--name", "carol"]).await);
    assert_eq!((code, printed.as_str()), (Some(0), "unsubscribed from bills\n"));
    assert!(server.handle().subscriptions(&client_id("carol")).await.unwrap().is_empty());
}

#[tokio::test]
async fn mistakes_are_reported_before_anything_is_sent() {
    let server = TestServer::start().await;
    for (arguments, expected) in [
        (&["sub", "news", "-p"][..], "add --name NAME"),
        (&["unsub", "news"], "unsub ends the subscription of a client with a name: add --name NAME"),
        (&["sub", "#bob"], "jmqt sub '#me' --name bob"),
        (&["sub", "$time"], "jmqt request '$time'"),
        (&["pub", "news", "{bad"], "begins like JSON and is not JSON"),
        (&["pub", "news", "[1,"], "--text"),
    ] {
        let (code, printed, error) = said(&run(&server, arguments).await);
        assert!(code == Some(2) && printed.is_empty() && error.contains(expected), "{arguments:?}: {error}");
    }
    let (code, ..) = said(&run(&server, &["pub", "news", "{bad", "--text"]).await);
    assert_eq!(code, Some(0));
    let (code, printed, _) = said(&run(&server, &["pub", "news", "{bad", "--json"]).await);
    let error: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &error["exit_code"]), (Some(2), &2.into()), "{printed}");
    let (_, _, note) = said(&run(&server, &["sub", "news/#", "--timeout", "0.2"]).await);
    assert!(note.contains("with wildcards: --filter"), "{note}");
}

#[tokio::test]
async fn a_refusal_names_the_channel_and_explains_the_status() {
    let server = TestServer::start().await;
    server.app.set(Asked::Control, Behaviour::Refuse(StatusCode::INVALID_CHANNEL));
    let (code, _, error) = said(&run(&server, &["request", "nothing"]).await);
    assert_eq!(code, Some(4));
    let expected =
        "request $nothing: refused, 11 INVALID_CHANNEL (the application answers no such control channel)";
    assert!(error.contains(expected), "{error}");
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, printed, error) = said(&run(&server, &["sub", "secret", "open", "--json"]).await);
    let expected = "sub secret: refused, 7 NOT_ALLOWED (the application does not allow it)";
    assert_eq!((code, error), (Some(4), format!("jmqt: {expected}\n")));
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let fields = serde_json::json!({ "error": expected, "exit_code": 4, "status": 7, "channel": "secret" });
    assert_eq!(printed, fields);
}

#[tokio::test]
async fn sub_reports_lost_and_restored_connections() {
    let server = TestServer::start().await;
    let mut sub = jmqt(&server, &["sub", "news", "--name", "reader"]);
    let mut sub = sub.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    subscribed(&server, "reader", "news").await;
    let mut notes = BufReader::new(sub.stderr.take().unwrap()).lines();
    let mut note = async || within("a note", notes.next_line()).await.unwrap().unwrap();
    server.handle().disconnect(&client_id("reader"));
    assert!(note().await.starts_with("jmqt: disconnected: "));
    while !note().await.starts_with("jmqt: connected as reader") {}
    // A newer connection wins, and is left alone (protocol.md 2.22).
    let _newer = connect(&server, "reader").await;
    assert!(note().await.contains("4500 TAKEOVER"));
    assert_eq!(within("the end", sub.wait()).await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn a_subscription_that_is_refused_after_a_reconnect_is_named_with_its_status_in_json() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    for (arguments, name, published) in
        [(&["sub", "news"][..], "news", "news"), (&["sub", "--filter", "rooms/+"], "rooms/+", "rooms/1")]
    {
        let mut sub = jmqt(&server, &[arguments, &["--name", "reader", "--json"]].concat());
        let mut sub = sub.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(sub.stdout.take().unwrap()).lines();
        let message = Publish::raw(channel(published), "1").unwrap();
        let line = within("a message", async {
            loop {
                bob.publish(&message).await.unwrap();
                let short = std::time::Duration::from_millis(20);
                if let Ok(line) = tokio::time::timeout(short, lines.next_line()).await {
                    return line.unwrap().unwrap();
                }
            }
        });
        assert!(line.await.contains(published));
        server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
        server.handle().disconnect(&client_id("reader"));
        let mut last = String::new();
        while let Some(line) = within("a line", lines.next_line()).await.unwrap() {
            last = line;
        }
        let (code, _, error) = said(&ended(sub).await);
        assert!(code == Some(4) && error.contains("after a reconnect"), "{error}");
        let failure: serde_json::Value = serde_json::from_str(&last).unwrap();
        assert_eq!((&failure["status"], &failure["channel"]), (&7.into(), &name.into()), "{last}");
        server.app.reset(Asked::Sub);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_ends_the_command() {
    let server = TestServer::start().await;
    let mut sub = jmqt(&server, &["sub", "news", "--name", "reader"]).spawn().unwrap();
    subscribed(&server, "reader", "news").await;
    let killed = std::process::Command::new("kill").arg(sub.id().unwrap().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(within("the end", sub.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_slow_bench_measures_every_message_and_a_time_limit_leaves_a_result() {
    let server = TestServer::start().await;
    for limit in [&["--seconds", "1"][..], &["--seconds", "60", "--timeout", "1"]] {
        let arguments = [&["bench", "--rate", "50", "--json"], limit].concat();
        let (code, printed, error) = said(&run(&server, &arguments).await);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert!(report["p50_micros"].as_u64() > Some(0) && report["lost"] == 0, "{printed}");
        assert_eq!(report["published"], report["received"], "{printed}");
    }
}
