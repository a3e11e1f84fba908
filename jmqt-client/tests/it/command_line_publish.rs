//! `jmqt pub`, `jmqt p2p` and `jmqt reply` as processes, against a server in this one.
#![cfg(feature = "cli")]

use std::process::Stdio;

use crate::support::command::{ended, jmqt, run, said, subscribed};
use crate::support::*;
use jmqt_client::{Persistence, Publish, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::test] // protocol.md 2.5
async fn a_refused_publish_fails_with_either_qos() {
    let server = TestServer::start().await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    for qos in ["0", "1"] {
        let (code, _, error) = said(&run(&server, &["pub", "news", "1", "-q", qos]).await);
        assert_eq!(
            (code, error.as_str()),
            (Some(4), "jmqt: pub news: refused, 7 NOT_ALLOWED (the application does not allow it)\n"),
            "QoS {qos}"
        );
    }
    server.app.reset(Asked::Pub);
    let (code, _, error) = said(&run(&server, &["p2p", "nobody", "1"]).await);
    assert!(code == Some(4) && error.contains("8 CLIENT_OFFLINE (no such client"), "{error}");
    for arguments in [&["p2p", "zed", "hi", "--name", "zed"][..], &["pub", "#me", "hi", "-q", "1"]] {
        let (code, _, error) = said(&run(&server, arguments).await);
        let expected = "8 CLIENT_OFFLINE (a client cannot send to itself)";
        assert!(code == Some(4) && error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn refused_lines_are_counted_and_the_others_published() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    let mut news = bob.subscribe("news", Persistence::Temporary).await.unwrap();
    for qos in ["0", "1"] {
        let mut lines = jmqt(&server, &["pub", "news", "-l", "-q", qos, "--json"]);
        let mut child =
            lines.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"1\n").await.unwrap();
        assert_eq!(next_data(&mut news).await, "1");
        // A refusal is told while the input goes on.
        server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
        stdin.write_all(b"2\n").await.unwrap();
        let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
        let note = within("a note", notes.next_line()).await.unwrap().unwrap();
        assert_eq!(
            note,
            "jmqt: line 2: pub news: refused, 7 NOT_ALLOWED (the application does not allow it)"
        );
        server.app.reset(Asked::Pub);
        stdin.write_all(b"3\n4\n").await.unwrap();
        drop(stdin);
        let (code, printed, _) = said(&ended(child).await);
        assert_eq!(code, Some(4), "{printed}");
        assert!(
            printed.starts_with("{\"lost\":0,\"published\":3,\"refused\":1,\"unsent\":0}\n"),
            "{printed}"
        );
        assert!(printed.contains("of 4 messages 1 were refused"), "{printed}");
        assert_eq!((next_data(&mut news).await, next_data(&mut news).await), ("3".into(), "4".into()));
    }
}

#[tokio::test]
async fn an_invalid_line_is_reported_with_its_number_and_the_others_are_published() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    let mut log = bob.subscribe("log", Persistence::Temporary).await.unwrap();
    let input = b"1\n[INFO] started\n\n{bad\n5\n";
    for (options, expected) in [(&[][..], Some(2)), (&["--text"], Some(0))] {
        let mut lines = jmqt(&server, &[&["pub", "log", "-l"], options].concat());
        let mut child = lines.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let (code, _, error) = said(&ended(child).await);
        assert_eq!(code, expected, "{error}");
        if expected == Some(0) {
            break;
        }
        let told: Vec<_> = error.lines().collect();
        assert!(
            told[0].starts_with("jmqt: line 2: the message begins like JSON and is not JSON: "),
            "{error}"
        );
        assert!(told[0].ends_with("--text sends it as a string"), "{error}");
        assert!(told[1].starts_with("jmqt: line 4: the message begins like JSON"), "{error}");
        assert!(told[2].starts_with("jmqt: of 4 messages 0 were refused, 2 were not sent"), "{error}");
        assert_eq!((next_data(&mut log).await, next_data(&mut log).await), ("1".into(), "5".into()));
    }
    assert_eq!(next_data(&mut log).await, r#""1""#);
    assert_eq!(next_data(&mut log).await, r#""[INFO] started""#);
}

#[tokio::test]
async fn every_refused_line_is_reported() {
    let server = TestServer::start().await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let mut lines = jmqt(&server, &["pub", "news", "-l"]);
    let mut child = lines.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    for number in 1..=2 {
        // One after another, so that the first is told while it is the only one.
        stdin.write_all(b"1\n").await.unwrap();
        let note = within("a note", notes.next_line()).await.unwrap().unwrap();
        assert!(
            note.starts_with(&format!("jmqt: line {number}: pub news: refused, 7 NOT_ALLOWED")),
            "{note}"
        );
    }
    drop(stdin);
    assert_eq!(said(&ended(child).await).0, Some(4));
}

#[tokio::test]
async fn a_template_that_makes_no_json_is_shown_with_its_placeholders_replaced() {
    let server = TestServer::start().await;
    let (code, _, error) =
        said(&run(&server, &["pub", "news", r#"{"n":{n},"at":{time}}"#, "--template"]).await);
    assert!(code == Some(2) && error.contains(r#"replaced: {"n":1,"at":2"#), "{error}");
}

#[tokio::test]
async fn templates_number_the_messages() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    let mut news = bob.subscribe("news", Persistence::Temporary).await.unwrap();
    let (code, _, error) = said(
        &run(
            &server,
            &[
                "pub",
                "news",
                r#"{"n":{n},"at":"{time}"}"#,
                "--template",
                "--count",
                "3",
                "--interval",
                "0.01",
            ],
        )
        .await,
    );
    assert_eq!((code, error.as_str()), (Some(0), ""));
    for number in 1..=3 {
        let data = next_data(&mut news).await;
        assert!(data.starts_with(&format!(r#"{{"n":{number},"at":"2"#)), "{data}");
    }
    // Without the option the message goes as it is.
    let (code, ..) = said(&run(&server, &["pub", "news", "no {n}"]).await);
    assert_eq!((code, next_data(&mut news).await.as_str()), (Some(0), r#""no {n}""#));
}

#[tokio::test] // §9.b
async fn clear_leaves_an_empty_retained_message() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    bob.publish(&Publish::json("news", "rain").unwrap().retained().at_least_once()).await.unwrap();
    let (code, _, error) = said(&run(&server, &["pub", "news", "--clear", "-q", "1"]).await);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let mut news = bob.subscribe("news", Persistence::Temporary).await.unwrap();
    let push = next(&mut news).await;
    assert_eq!((push.data(), push.is_retained()), ("null", true));
    assert_eq!(said(&run(&server, &["p2p", "bob", "--clear"]).await).0, Some(2));
}

#[tokio::test] // §9.d: between clients a reply is a message to the one who asked
async fn reply_answers_every_publisher_and_wait_reply_prints_the_answer() {
    let server = TestServer::start().await;
    for (arguments, asked, expected) in [
        (&["jobs", "pong"][..], "1", "\"pong\""),
        (
            &["jobs", "--template", r#"{"you":"{publisher}","said":{data},"n":{n}}"#],
            "[1.50]",
            r#"{"you":"asker","said":[1.50],"n":1}"#,
        ),
        (&["jobs", "--command", "read -r x; echo \"$JMQT_CHANNEL $x\""], "7\n", "\"jobs 7\""),
        (&["#me", "mine", "-q", "1"], "1", "\"mine\""),
    ] {
        let reply = [&["reply"], arguments, &["-n", "1", "--name", "server", "--json"]].concat();
        let reply = jmqt(&server, &reply).stdout(Stdio::piped()).spawn().unwrap();
        let target = if arguments[0] == "#me" {
            within("the session", async {
                while !server.handle().is_connected(&client_id("server")) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            &["p2p", "server"][..]
        } else {
            subscribed(&server, "server", arguments[0]).await;
            &["pub", "jobs"]
        };
        let ask = [target, &[asked, "--wait-reply", "30", "--name", "asker"]].concat();
        let (code, printed, error) = said(&run(&server, &ask).await);
        assert_eq!((code, printed.trim_end(), error.as_str()), (Some(0), expected, ""), "{arguments:?}");
        let (code, told, _) = said(&ended(reply).await);
        assert!(code == Some(0) && told.contains(r#""answered":"asker""#), "{told}");
    }
    let (code, _, error) = said(&run(&server, &["pub", "jobs", "1", "--wait-reply", "0.2"]).await);
    assert_eq!((code, error.as_str()), (Some(5), "jmqt: no reply came: the time limit has passed\n"));
}

#[tokio::test]
async fn reply_shows_a_template_that_makes_no_json_and_names_a_refused_channel() {
    let server = TestServer::start().await;
    let mut reply =
        jmqt(&server, &["reply", "jobs", r#"{"you":{publisher}}"#, "--template", "--name", "server"]);
    let mut reply = reply.stderr(Stdio::piped()).spawn().unwrap();
    subscribed(&server, "server", "jobs").await;
    let bob = connect(&server, "bob").await;
    bob.publish(&Publish::json("jobs", &1).unwrap()).await.unwrap();
    let mut notes = BufReader::new(reply.stderr.take().unwrap()).lines();
    let note = within("a note", notes.next_line()).await.unwrap().unwrap();
    assert!(note.contains(r#"no answer to bob: with its placeholders replaced: {"you":bob}: "#), "{note}");
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, _, error) = said(&run(&server, &["reply", "secret", "pong"]).await);
    assert!(code == Some(4) && error.contains("sub secret: refused, 7 NOT_ALLOWED"), "{error}");
}

#[tokio::test]
async fn a_command_that_fails_gives_no_answer_and_the_next_message_is_answered() {
    let server = TestServer::start().await;
    let arguments = ["reply", "jobs", "--command", "grep good", "-n", "1", "--name", "server"];
    let mut reply = jmqt(&server, &arguments);
    let mut reply = reply.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    subscribed(&server, "server", "jobs").await;
    let bob = connect(&server, "bob").await;
    for data in ["bad", "good"] {
        bob.publish(&Publish::json("jobs", data).unwrap()).await.unwrap();
    }
    let mut notes = BufReader::new(reply.stderr.take().unwrap()).lines();
    let note = within("a note", notes.next_line()).await.unwrap().unwrap();
    assert!(note.contains("no answer to bob: the command failed"), "{note}");
    let push = within("an answer", bob.pushes().next()).await.unwrap();
    assert_eq!((push.channel(), push.data()), ("#bob", r#""good""#));
    assert_eq!(said(&ended(reply).await).0, Some(0));
}
