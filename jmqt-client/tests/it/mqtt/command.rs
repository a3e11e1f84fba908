//! `jmqt pub`, `sub`, `p2p` and `request` with MQTT servers, as a process.

use std::process::Stdio;

use jmqt_client::StatusCode;
use jmqt_client::mqtt::{Publish, Qos, Version};
use jmqt_server::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::broker::Broker;
use super::{connect, next, options};
use crate::support::command::{bare, ended, run_bare, said};
use crate::support::{Asked, Behaviour, TestServer, within};

/// The command, which must end well; what it printed.
async fn run(url: &str, arguments: &[&str]) -> String {
    let (code, printed, error) = run_bare(&[arguments, &["--url", url]].concat()).await;
    assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
    printed
}

#[tokio::test]
async fn every_codec_comes_back_as_it_was_typed() {
    let Some(broker) = Broker::start("").await else { return };
    let url = broker.url("mqtt");
    for (codec, typed, shown, payload, content_type) in [
        ("utf8", "grün", "grün\n", "grün".as_bytes(), None),
        ("json", " {\"a\": 1.50}", "{\"a\": 1.50}\n", b"{\"a\": 1.50}", Some("application/json")),
        ("msgpack", "[1,null]", "[1,null]\n", b"\x92\x01\xC0", Some("application/msgpack")),
        ("cbor", "{\"a\":[true]}", "{\"a\":[true]}\n", b"\xA1\x61a\x81\xF5", Some("application/cbor")),
        ("binary", "two\n", "two\n", b"two\n", Some("application/octet-stream")),
        ("bool", "true", "true\n", b"on", None),
        ("bool:ON,OFF", "off", "false\n", b"OFF", None),
    ] {
        for version in ["--timeout=60", "--v3"] {
            let topic = format!("codec/{codec}").replace(',', "-");
            run(&url, &["pub", &topic, typed, "--codec", codec, "-r", "-q", "1", version]).await;
            assert_eq!(
                run(&url, &["sub", &topic, "--codec", codec, "-C", "1", version]).await,
                shown,
                "{codec}"
            );
            let client = connect(options(&url, Version::V5, "looks")).await;
            let message = next(&mut client.subscribe(&topic, Qos::AtLeastOnce).await.unwrap()).await;
            assert_eq!(message.payload(), payload, "{codec}");
            let declared = content_type.filter(|_| version != "--v3");
            assert_eq!(message.content_type(), declared, "{codec}");
            within("the end", client.disconnect()).await;
        }
    }
    let line = run(&url, &["sub", "codec/cbor", "--codec", "cbor", "-n", "1", "--json"]).await;
    assert!(line.contains(r#""payload":{"a":[true]}"#), "{line}");
    serde_json::from_str::<serde_json::Value>(&line).unwrap();
    // A message of another kind is told, and neither shown nor counted.
    let (code, printed, error) =
        run_bare(&["sub", "codec/#", "--codec", "bool", "-W", "0.5", "--url", &url]).await;
    assert_eq!((code, printed.as_str()), (Some(5), "true\n"), "{error}");
    assert!(
        error.contains(r#"a message on "codec/utf8" is not shown: it is neither "on" nor "off""#),
        "{error}"
    );
    for (codec, typed) in [("json", "{"), ("cbor", "x"), ("bool", "maybe"), ("xml", "1")] {
        let (code, _, error) =
            run_bare(&["pub", "a", typed, "--codec", codec, "--url", "mqtt://127.0.0.1:1"]).await;
        assert_eq!(code, Some(2), "{codec}: {error}");
    }
}

#[tokio::test]
async fn a_configuration_has_the_server_and_defaults_for_topics() {
    let Some(broker) = Broker::start("").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.conf");
    let url = broker.url("mqtt");
    let text = format!(
        "URL = '{url}'\nCLIENT_ID = 'lamp'\nDEFAULT_QOS = 1\n[topics.\"light/#\"]\nQOS = 2\nRETAIN = true\n\
         [topics.\"light/+/state\"]\nCODEC = \"bool\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let watching = connect(options(&url, Version::V5, "watching")).await;
    let mut stream = watching.subscribe("#", Qos::ExactlyOnce).await.unwrap();
    for (arguments, payload, qos) in [
        (&["light/7/state", "true"][..], "on", Qos::ExactlyOnce),
        (&["light/7/state", "x", "-q", "0", "--codec", "utf8"], "x", Qos::AtMostOnce),
        (&["light/7", "true", "--retained=false"], "true", Qos::ExactlyOnce),
        (&["other", "true"], "true", Qos::AtLeastOnce),
        (&["light/7/state", "false"], "off", Qos::ExactlyOnce),
    ] {
        let output = run_bare(&[&["pub", "--config", path][..], arguments].concat()).await;
        assert_eq!(output, (Some(0), String::new(), String::new()));
        let message = next(&mut stream).await;
        assert_eq!((message.text().unwrap(), message.qos()), (payload, qos), "{arguments:?}");
    }
    // What is retained came of the first topic only, and is read by the same rules.
    let (code, printed, error) = run_bare(&["sub", "#", "-v", "-W", "0.5", "--config", path]).await;
    assert_eq!((code, printed.as_str()), (Some(5), "light/7/state (QOS 2): false\n"), "{error}");
    // CLIENT_ID names the session.
    let kept = ["sub", "a", "--persistent", "-W", "0.2", "--config", path];
    assert_eq!(run_bare(&kept).await.0, Some(5));
    std::fs::write(&file, format!("URL = '{url}'\n\n[topics.'a']\nCODEC = 'xml'")).unwrap();
    let (code, _, error) = run_bare(&["pub", "a", "1", "--config", path]).await;
    assert_eq!(code, Some(2));
    let expected = format!("{path}, line 4, [topics.\"a\"]: CODEC is \"xml\"; expected one of utf8, json");
    assert!(error.contains(&expected), "{error}");
    // The environment and options are stronger.
    let mut by_environment = bare(&["pub", "a", "1"]);
    by_environment.env("JMQT_CLIENT_URL", &url);
    assert_eq!(said(&within("the end", by_environment.output()).await.unwrap()).0, Some(0));
    let (code, _, error) =
        run_bare(&["pub", "a", "1", "--config", path, "--url", "jmqt://127.0.0.1:1"]).await;
    assert!(code == Some(3) && error.contains("jmqt:// 8010"), "{error}");
}

#[tokio::test]
async fn a_profile_keeps_an_mqtt_server() {
    let Some(broker) = Broker::start("").await else { return };
    let home = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = bare(arguments);
        said(&within("the end", command.env("HOME", home.path()).output()).await.unwrap())
    };
    let url = broker.url("mqtt").replace("://", "://me:secret@");
    let (code, _, error) = run(&["profile", "save", "home", "--url", &url, "--name", "lamp", "--v3"]).await;
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let (_, printed, _) = run(&["profile", "list"]).await;
    assert_eq!(printed, format!("home             {}\n", broker.url("mqtt")));
    let (code, _, error) = run(&["pub", "a", "1", "--profile", "home", "--content-type", "x"]).await;
    assert!(code == Some(2) && error.contains("MQTT 3.1.1 has no properties"), "{error}");
    assert_eq!(run(&["pub", "a", "1", "--profile", "home", "-q", "1"]).await.0, Some(0));
}

#[tokio::test]
async fn messages_come_from_lines_templates_and_options() {
    let Some(broker) = Broker::start("").await else { return };
    let url = broker.url("mqtt");
    let client = connect(options(&url, Version::V5, "looks")).await;
    let mut stream = client.subscribe("t", Qos::AtLeastOnce).await.unwrap();
    let mut lines = bare(&["pub", "t", "-l", "-q", "1", "--codec", "json", "--json", "--url", &url]);
    let mut child =
        lines.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"1\n\n{bad\n[2]\n").await.unwrap();
    let (code, printed, error) = said(&ended(child).await);
    assert_eq!(code, Some(2), "{error}");
    assert!(
        error.contains("line 3: ") && error.contains("of 3 messages 0 were refused, 1 were not sent"),
        "{error}"
    );
    assert!(printed.starts_with(r#"{"published":2,"refused":0,"unsent":1}"#), "{printed}");
    run(&url, &["pub", "t", "{n} of 2", "--template", "--count", "2", "--interval", "0.01"]).await;
    run(&url, &["pub", "t", "-m", "option", "--retain"]).await;
    run(&url, &["pub", "t", "--empty"]).await;
    for expected in ["1", "[2]", "1 of 2", "2 of 2", "option", ""] {
        assert_eq!(next(&mut stream).await.text().unwrap(), expected);
    }
    let properties =
        ["--content-type", "x/y", "--response-topic", "r", "--user-property", "k=v=w", "--expiry", "60"];
    run(&url, &[&["pub", "t", "last", "-q", "2"][..], &properties].concat()).await;
    let message = next(&mut stream).await;
    assert_eq!((message.content_type(), message.response_topic()), (Some("x/y"), Some("r")));
    assert_eq!(message.user_properties().collect::<Vec<_>>(), [("k", "v=w")]);
    assert!(message.expiry().is_some());
    // The retained message is removed.
    run(&url, &["pub", "t", "--clear", "-q", "1"]).await;
    let (code, printed, _) = run_bare(&["sub", "t", "-W", "0.3", "--url", &url]).await;
    assert_eq!((code, printed.as_str()), (Some(5), ""));
    for arguments in [
        &["pub", "t", "1", "--text"][..],
        &["pub", "t", "1", "--wait-reply", "1"],
        &["pub", "t", "1", "--trace"],
        &["pub", "t", "1", "--empty"],
        &["pub", "t", "1", "-m", "2"],
        &["pub", "t"],
        &["ping"],
    ] {
        let (code, _, error) = run_bare(&[arguments, &["--url", &url]].concat()).await;
        assert_eq!(code, Some(2), "{arguments:?}: {error}");
    }
}

#[tokio::test]
async fn members_of_a_group_share_the_messages() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    share(&format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port())).await;
    if let Some(broker) = Broker::start("").await {
        share(&broker.url("mqtt")).await;
    }
}

async fn share(url: &str) {
    let mut member = bare(&["sub", "jobs/+", "--share", "workers", "-C", "1", "--url", url]);
    member.stdout(Stdio::piped()).stderr(Stdio::piped());
    let members = [member.spawn().unwrap(), member.spawn().unwrap()];
    let client = connect(options(url, Version::V5, "boss")).await;
    let publishing = tokio::spawn(async move {
        for number in 0.. {
            let message = Publish::new("jobs/1", number.to_string()).unwrap().at_least_once();
            client.publish(&message).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    let mut seen = Vec::new();
    for member in members {
        let (code, printed, error) = said(&ended(member).await);
        assert_eq!(code, Some(0), "{error}");
        seen.push(printed);
    }
    publishing.abort();
    assert!(seen[0] != seen[1] && !seen[0].is_empty(), "both have {seen:?}");
}

#[tokio::test] // docs/mqtt.md: `$p2p/ID`
async fn p2p_reaches_one_client_and_a_refused_message_is_an_error() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    let mut sub =
        bare(&["sub", "$p2p/bob", "-n", "1", "--format", "%c %p %q: %d%%", "--id", "bob", "--url", &url]);
    let sub = sub.stdout(Stdio::piped()).spawn().unwrap();
    let delivered = async {
        while run_bare(&["p2p", "bob", "hello", "-q", "1", "--id", "al", "--url", &url]).await.0 != Some(0) {}
    };
    within("a delivery", delivered).await;
    assert_eq!(said(&ended(sub).await).1, "$p2p/bob al 1: hello%\n");
    let (code, _, error) = run_bare(&["p2p", "nobody", "hello", "-q", "1", "--url", &url]).await;
    assert!(code == Some(4) && error.contains("p2p $p2p/nobody: no such client"), "{error}");
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, _, error) = run_bare(&["pub", "a", "1", "-q", "1", "--count", "3", "--url", &url]).await;
    assert!(
        code == Some(4) && error.contains("message 3: ") && error.contains("of 3 messages 3 were"),
        "{error}"
    );
}

#[tokio::test]
async fn a_password_is_never_printed() {
    let Some(broker) = Broker::start("allow_anonymous false\n").await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client.conf");
    let refused = broker.url("mqtt").replace("://", "://me:secret@");
    for url in [
        refused.as_str(),
        "mqtt://me:secret@127.0.0.1:1",
        "mqtts://me:secret@127.0.0.1:1",
        "mqtt+ws://me:secret@127.0.0.1:1",
        "mqtt://me:secret@127.0.0.1:port",
        "mqtt://me:sec%ret@127.0.0.1",
        "mqtt://me:secret/x@127.0.0.1",
        "jmqt://me:secret@127.0.0.1",
        "ws://me:secret@127.0.0.1",
        "http://me:secret@127.0.0.1",
    ] {
        std::fs::write(&file, format!("URL = '{url}'\n")).unwrap();
        let by_file = ["--config", file.to_str().unwrap()];
        for server in [&["--url", url][..], &["--url", url, "--mqtt"], &by_file] {
            for command in [
                &["pub", "a", "1", "-q", "1"][..],
                &["sub", "a"],
                &["request", "a"],
                &["doctor"],
                &["doctor", "--json"],
                &["pub", "a", "1", "--json"],
            ] {
                let arguments = [command, server, &["--verbose", "-W", "5"]].concat();
                let (code, printed, error) = run_bare(&arguments).await;
                assert_ne!(code, Some(0), "{arguments:?}");
                let all = printed + &error;
                assert!(!all.contains("secret") && !all.contains("sec%"), "{arguments:?}: {all}");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_will_is_told_with_advice() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let command = ["sub", "a", "--will-topic", "gone", "--url", &url];
    for (more, advice) in
        [(&[][..], "may not publish to `gone`. Connect without it"), (&["--v3"], "leave out --will-topic")]
    {
        let (code, _, error) = run_bare(&[&command, more].concat()).await;
        assert!(code == Some(4) && error.contains(advice), "{error}");
    }
}

#[tokio::test]
async fn headers_are_sent_with_the_request_for_a_websocket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for scheme in ["ws", "mqtt+ws"] {
        let url = format!("{scheme}://{address}/x");
        let mut command =
            bare(&["pub", "a", "1", "--header", "Cookie: session=secret", "--header", "X-Y: z"]);
        command.env("JMQT_CLIENT_WEBSOCKET_HEADERS", "X-Z: 1").args(["--url", &url, "--verbose"]);
        let asking = tokio::spawn(async move { command.output().await.unwrap() });
        let (mut socket, _) = within("a connection", listener.accept()).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(within("a byte", socket.read_u8()).await.unwrap());
        }
        socket.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let request = String::from_utf8(request).unwrap().to_ascii_lowercase();
        for header in ["cookie: session=secret\r\n", "x-y: z\r\n", "x-z: 1\r\n"] {
            assert!(request.contains(header), "{request}");
        }
        let (code, printed, error) = said(&within("the end", asking).await.unwrap());
        assert!(code == Some(3) && error.contains("403"), "{error}");
        assert!(!(printed + &error).contains("secret"));
    }
    let (code, _, error) = run_bare(&["pub", "a", "1", "--header", "secret"]).await;
    assert!(code == Some(2) && error.contains("a header has a colon"), "{error}");
}

#[tokio::test]
async fn bench_measures_mqtt_servers_and_is_bounded() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let ours = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    let broker = Broker::start("").await;
    for url in broker.iter().map(|broker| broker.url("mqtt")).chain([ours]) {
        for (qos, clients, version) in [("0", "1", "--v3"), ("1", "3", "--verbose"), ("2", "2", "--verbose")]
        {
            let load =
                ["bench", "--messages", "400", "-q", qos, "--clients", clients, "--size", "200", "--json"];
            let printed =
                run(&url, &[&load[..], &["--seconds", "60", "--window", "50", version]].concat()).await;
            let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
            let clients: u64 = clients.parse().unwrap();
            assert_eq!((&report["published"], &report["lost"]), (&400.into(), &0.into()), "{url} {printed}");
            assert_eq!(report["received"], 400 * clients, "{url} {printed}");
            assert!(
                report["per_second"].as_f64() > Some(0.0) && report["p99_micros"].as_u64() > Some(0),
                "{printed}"
            );
        }
        let timed = run(&url, &["bench", "--seconds", "1", "--rate", "100", "--json"]).await;
        let report: serde_json::Value = serde_json::from_str(&timed).unwrap();
        assert!(report["published"].as_u64() > Some(0) && report["lost"] == 0, "{timed}");
        let (code, _, error) = run_bare(&["bench", "--channel", "a/#", "--url", &url]).await;
        assert_eq!(code, Some(2), "{error}");
    }
    let (code, _, error) = run_bare(&["bench", "-q", "2", "--url", "jmqt://127.0.0.1:1"]).await;
    assert!(code == Some(2) && error.contains("JMQT has 0 and 1"), "{error}");
}

#[tokio::test]
async fn a_request_that_nobody_can_answer_says_how_to_ask_an_application() {
    let advice = "to ask the application of a JMQT server, write '$echo', in quotes";
    if let Some(broker) = Broker::start("").await {
        let (code, _, error) = run_bare(&["request", "echo", "--url", &broker.url("mqtt")]).await;
        assert_eq!(code, Some(4), "{error}");
        assert!(error.contains("nobody is subscribed to it") && error.contains(advice), "{error}");
    }
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    let (code, _, error) = run_bare(&["request", "echo", "-W", "6", "--url", &url]).await;
    assert_eq!(code, Some(5), "{error}");
    assert!(error.contains("no reply yet") && error.contains(advice), "{error}");
    assert_eq!(run(&url, &["request", "$echo", "[1]"]).await, "[1]\n");
    // Before MQTT 5 the application answers on another topic, and nobody else can.
    assert_eq!(run(&url, &["request", "$echo", "[1]", "--v3"]).await, "[1]\n");
    for arguments in
        [&["request", "echo", "--v3"][..], &["request", "$echo", "--v3", "--response-topic", "a"]]
    {
        let (code, _, error) = run_bare(&[arguments, &["--url", &url]].concat()).await;
        assert!(code == Some(2) && error.contains("MQTT 5"), "{error}");
    }
    server.app.set(Asked::Control, Behaviour::Refuse(StatusCode::INVALID_CHANNEL));
    let (code, _, error) = run_bare(&["request", "$echo", "--url", &url]).await;
    assert_eq!(code, Some(4), "{error}");
}

#[tokio::test]
async fn the_channel_me_receives_what_is_sent_to_this_client_alone() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    let receiving = bare(&["sub", "#me", "-n", "1", "--client-id", "carol", "--url", &url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    crate::support::command::subscribed(&server, "carol", "#carol").await;
    run(&url, &["pub", "#carol", "hello"]).await;
    assert_eq!(said(&ended(receiving).await).1, "hello\n");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_what_to_write() {
    for (arguments, words) in [
        (&["sub", "a", "--url", "localhost:1883"][..], "with an MQTT server mqtt://host:1883"),
        (&["sub", "a", "--share", "g/x", "--url", "mqtt://127.0.0.1:1"], "a name without /, + and #"),
        (&["request", "x", "{bad", "--url", "jmqt://127.0.0.1:1"], "text needs double quotes in JSON"),
    ] {
        let (code, _, error) = run_bare(arguments).await;
        assert!(code == Some(2) && error.contains(words), "{arguments:?}: {error}");
    }
    // Its version is right, and its port is not.
    let server = TestServer::start().await;
    let url = format!("mqtt://{}", server.address(Protocol::Socket));
    let (code, _, error) = run_bare(&["pub", "a", "x", "--url", &url]).await;
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("this port is for JMQT") && !error.contains("--v3"), "{error}");
}
