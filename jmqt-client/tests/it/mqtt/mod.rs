//! The MQTT client against a real Mosquitto, the server of this repository, and a server that follows a script.

mod authentication;
mod broker;
#[cfg(feature = "cli")]
mod command;
#[cfg(feature = "cli")]
mod doctor;
mod scripted;
mod unclaimed;

use std::time::Duration;

use jmqt_client::Reconnect;
use jmqt_client::mqtt::{
    Client, Event, Message, Options, Publish, Qos, ReasonCode, SubscribeOptions, Subscription, Version, Will,
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Proxy, TestServer, within};
use broker::{Broker, SCHEMES};

fn options(url: &str, version: Version, id: &str) -> Options {
    let mut options = Options::url(url).unwrap();
    (options.version, options.client_id) = (version, id.to_owned());
    let (first, most) = (Duration::from_millis(5), Duration::from_millis(50));
    options.reconnect = Reconnect::Backoff { first, most, jitter: true };
    options
}

async fn connect(options: Options) -> Client {
    within("a session", Client::connect(options)).await.unwrap()
}

async fn next(stream: &mut Subscription) -> Message {
    within("a message", stream.next()).await.expect("the stream has ended")
}

async fn text(stream: &mut Subscription) -> String {
    next(stream).await.text().unwrap().to_owned()
}

const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

#[tokio::test]
async fn every_qos_passes_over_every_transport_in_both_versions() {
    let Some(broker) = Broker::start("").await else { return };
    for (scheme, version) in SCHEMES.iter().flat_map(|scheme| VERSIONS.map(|version| (scheme, version))) {
        let mut wanted = options(&broker.url(scheme), version, "one");
        wanted.tls.ca_path = Some(broker.ca());
        let client = connect(wanted).await;
        let mut stream = within("a subscription", client.subscribe("a/+/c", Qos::ExactlyOnce)).await.unwrap();
        assert_eq!(stream.granted(), Qos::ExactlyOnce);
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let large = format!("{scheme} {version:?} {}", "x".repeat(20_000));
            for payload in ["", "21.5", large.as_str()] {
                let message = Publish::new("a/b/c", payload.to_owned()).unwrap().qos(qos);
                let reason = within("an acknowledgement", client.publish(&message)).await.unwrap();
                assert_eq!(reason, ReasonCode::SUCCESS);
                let message = next(&mut stream).await;
                assert_eq!((message.topic(), message.text().unwrap()), ("a/b/c", payload));
                assert_eq!((message.qos(), message.is_retained()), (qos, false));
            }
        }
        within("the end", client.disconnect()).await;
    }
}

#[tokio::test]
async fn properties_and_options_of_mqtt_5_pass_and_are_refused_before_it() {
    let Some(broker) = Broker::start("").await else { return };
    let client = connect(options(&broker.url("mqtt"), Version::V5, "five")).await;
    let mut quiet = SubscribeOptions::of_qos(Qos::AtLeastOnce);
    quiet.no_local = true;
    let mut without_own = client.subscribe("t/#", quiet).await.unwrap();
    let mut stream = client.subscribe("t/1", Qos::AtLeastOnce).await.unwrap();
    let message = Publish::new("t/1", &b"\xFF"[..]).unwrap().at_least_once();
    let message = message
        .content_type("x/y")
        .response_topic("r")
        .correlation_data(b"\x00c")
        .user_property("k", "1")
        .user_property("k", "2")
        .expires_after(Duration::from_secs(100));
    client.publish(&message).await.unwrap();
    let message = next(&mut stream).await;
    assert_eq!((message.content_type(), message.response_topic()), (Some("x/y"), Some("r")));
    assert_eq!((message.correlation_data(), message.payload()), (Some(&b"\x00c"[..]), &b"\xFF"[..]));
    assert_eq!(message.user_properties().collect::<Vec<_>>(), [("k", "1"), ("k", "2")]);
    assert!(message.expiry().is_some_and(|left| left <= Duration::from_secs(100)));
    // What another client publishes shows that nothing of its own came before it.
    let old = connect(options(&broker.url("mqtt"), Version::V3_1_1, "three")).await;
    let error = old.publish(&Publish::new("t/2", "x").unwrap().content_type("x/y")).await.unwrap_err();
    assert!(error.to_string().contains("MQTT 3.1.1 has no properties"), "{error}");
    old.publish(&Publish::new("t/2", "other").unwrap().at_least_once()).await.unwrap();
    assert_eq!(text(&mut without_own).await, "other");
}

#[tokio::test]
async fn retained_messages_and_wills_are_received() {
    let Some(broker) = Broker::start("").await else { return };
    for version in VERSIONS {
        let watcher = connect(options(&broker.url("mqtt"), version, "watcher")).await;
        let message = Publish::new("kept", "1").unwrap().at_least_once().retained();
        watcher.publish(&message).await.unwrap();
        let mut kept = watcher.subscribe("kept", Qos::AtMostOnce).await.unwrap();
        assert!(next(&mut kept).await.is_retained());
        let mut gone = watcher.subscribe("gone", Qos::AtLeastOnce).await.unwrap();
        let proxy = Proxy::start(broker.address()).await;
        let mut doomed = options(&proxy.url("mqtt"), version, "doomed");
        doomed.will = Some(Will::new(Publish::new("gone", "alas").unwrap().at_least_once()));
        doomed.reconnect = Reconnect::Off;
        let _doomed = connect(doomed).await;
        proxy.cut();
        assert_eq!(text(&mut gone).await, "alas");
    }
}

#[tokio::test]
async fn a_session_that_is_present_goes_on_where_the_connection_broke() {
    let Some(broker) = Broker::start("").await else { return };
    for version in VERSIONS {
        let proxy = Proxy::start(broker.address()).await;
        let mut wanted = options(&proxy.url("mqtt"), version, &format!("lasting {version:?}"));
        (wanted.clean_start, wanted.session_expiry) = (false, Duration::from_secs(100));
        let client = connect(wanted).await;
        let mut events = client.events();
        let mut stream = client.subscribe("s/#", Qos::ExactlyOnce).await.unwrap();
        let publisher = connect(options(&broker.url("mqtt"), version, "publisher")).await;
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            publisher.publish(&Publish::new("s/1", "before").unwrap().qos(qos)).await.unwrap();
            let held = next(&mut stream).await; // not acknowledged yet
            proxy.cut();
            publisher.publish(&Publish::new("s/2", "meanwhile").unwrap().qos(qos)).await.unwrap();
            let information = within("a connection", async {
                loop {
                    if let Event::Connected { information } = events.next().await.unwrap() {
                        return information;
                    }
                }
            })
            .await;
            assert!(information.session_present);
            assert_eq!(held.text().unwrap(), "before");
            // The first one comes again from the server, and is recognised.
            assert_eq!(text(&mut stream).await, "meanwhile");
        }
    }
}

#[tokio::test]
async fn cut_connections_lose_no_message_and_repeat_none_of_qos_2() {
    let Some(broker) = Broker::start("max_queued_messages 10000\n").await else { return };
    for (version, qos) in VERSIONS.into_iter().flat_map(|v| [(v, Qos::AtLeastOnce), (v, Qos::ExactlyOnce)]) {
        let (to, from) = (Proxy::start(broker.address()).await, Proxy::start(broker.address()).await);
        let name = |side: &str| format!("{side} {version:?} {qos:?}");
        let [mut sender, mut receiver] = [(&to, "sender"), (&from, "receiver")]
            .map(|(proxy, side)| options(&proxy.url("mqtt"), version, &name(side)));
        for wanted in [&mut sender, &mut receiver] {
            (wanted.clean_start, wanted.session_expiry) = (false, Duration::from_secs(100));
        }
        let (sender, receiver) = (connect(sender).await, connect(receiver).await);
        let mut stream = receiver.subscribe("n", qos).await.unwrap();
        let publishing = tokio::spawn(async move {
            let mut receipts = Vec::new();
            for number in 0..300 {
                let message = Publish::new("n", number.to_string()).unwrap().qos(qos);
                receipts.push(sender.queue(&message).await.unwrap());
                if number % 60 == 30 {
                    to.cut();
                }
            }
            for receipt in receipts {
                receipt.await.unwrap();
            }
            (sender, to)
        });
        let mut seen = Vec::new();
        while seen.last() != Some(&299) {
            seen.push(text(&mut stream).await.parse::<u32>().unwrap());
            if seen.len() % 70 == 35 {
                from.cut();
            }
        }
        within("all acknowledgements", publishing).await.unwrap();
        if qos == Qos::AtLeastOnce {
            seen.sort_unstable();
            seen.dedup();
        }
        assert_eq!(seen, (0..300).collect::<Vec<_>>(), "{version:?} {qos:?}");
    }
}

#[tokio::test]
async fn publishes_wait_for_a_server_and_subscriptions_are_made_again() {
    let Some(mut broker) = Broker::start("").await else { return };
    let client = connect(options(&broker.url("mqtt"), Version::V5, "waiting")).await;
    let mut events = client.events();
    let mut stream = client.subscribe("w", Qos::AtLeastOnce).await.unwrap();
    broker.restart().await;
    within("the end", async { while !matches!(events.next().await.unwrap(), Event::Disconnected { .. }) {} })
        .await;
    let message = Publish::new("w", "late").unwrap().at_least_once();
    within("an acknowledgement", client.publish(&message)).await.unwrap();
    assert_eq!(text(&mut stream).await, "late");
}

#[tokio::test]
async fn an_unsubscription_without_a_connection_is_made_on_the_next_one() {
    let Some(broker) = Broker::start("").await else { return };
    let proxy = Proxy::start(broker.address()).await;
    let mut wanted = options(&proxy.url("mqtt"), Version::V5, "ending");
    (wanted.clean_start, wanted.session_expiry) = (false, Duration::from_secs(100));
    let client = connect(wanted).await;
    let mut events = client.events();
    let mut first = client.subscribe("first", Qos::AtLeastOnce).await.unwrap();
    let mut second = client.subscribe("second", Qos::AtLeastOnce).await.unwrap();
    proxy.set_target(([127, 0, 0, 1], 1).into());
    proxy.cut();
    within("the end", async { while !matches!(events.next().await.unwrap(), Event::Disconnected { .. }) {} })
        .await;
    let ending = tokio::spawn({
        let client = client.clone();
        async move { client.unsubscribe("first").await }
    });
    assert!(within("the end of the stream", first.next()).await.is_none());
    proxy.set_target(broker.address());
    within("an answer", ending).await.unwrap().unwrap();
    // Nothing comes of the first before something comes of the second.
    for topic in ["first", "second"] {
        client.publish(&Publish::new(topic, topic).unwrap().at_least_once()).await.unwrap();
    }
    assert_eq!(text(&mut second).await, "second");
    let left = tokio::time::timeout(Duration::ZERO, client.messages().next()).await;
    assert!(left.is_err(), "a message of the first came");
}

#[tokio::test] // [MQTT-3.1.4-3]
async fn a_client_that_is_taken_over_stops_and_says_why() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for reconnect in [Reconnect::default(), Reconnect::Off] {
        is_taken_over(&listener, reconnect).await;
    }
}

async fn is_taken_over(listener: &tokio::net::TcpListener, reconnect: Reconnect) {
    let mut wanted = options(&format!("mqtt://{}", listener.local_addr().unwrap()), Version::V5, "same");
    wanted.reconnect = reconnect;
    let connecting = tokio::spawn(Client::connect(wanted));
    let (mut server, _) = within("a connection", listener.accept()).await.unwrap();
    server.write_all(b"\x20\x03\x00\x00\x00").await.unwrap();
    let client = within("a session", connecting).await.unwrap().unwrap();
    server.write_all(b"\xE0\x02\x8E\x00").await.unwrap();
    assert!(within("the end", client.messages().next()).await.is_none());
    let why = client.ended().unwrap().to_string();
    assert!(why.contains("0x8E Session taken over") && why.contains("give each client its own"), "{why}");
    within("the end", client.disconnect()).await;
}

#[tokio::test]
async fn an_error_says_how_to_fix_it() {
    let Some(broker) = Broker::start("").await else { return };
    let plain = broker.url("mqtt");
    for (url, words) in [
        (plain.replace("mqtt:", "mqtts:"), "use mqtt:// (1883)"),
        (broker.url("mqtts").replace("mqtts:", "mqtt:"), "--v3"),
        (broker.url("mqtt+ws").replace("/mqtt", "").replace("mqtt+ws:", "mqtt+wss:"), "TLS"),
        ("mqtt://127.0.0.1:1".to_owned(), "127.0.0.1:1"),
    ] {
        let mut wanted = options(&url, Version::V5, "x");
        wanted.connect_timeout = Duration::from_secs(3);
        let error = within("an error", Client::connect(wanted)).await.unwrap_err().to_string();
        assert!(error.contains(words), "{url}: {error}");
    }
    let mut wanted = options(&plain, Version::V5, "");
    wanted.clean_start = false;
    let error = Client::connect(wanted).await.unwrap_err().to_string();
    assert!(error.contains("client_id") && error.contains("come back"), "{error}");
    let client = connect(options(&plain, Version::V5, "")).await;
    assert!(!client.information().unwrap().client_id.is_empty());
    let error = client.subscribe("a/#/b", Qos::AtMostOnce).await.unwrap_err().to_string();
    assert!(error.contains("`#` is not alone"), "{error}");
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_command_publishes_and_subscribes() {
    let Some(broker) = Broker::start("").await else { return };
    let command = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_jmqt"));
        command.env_clear().args(arguments).kill_on_drop(true);
        command.stdin(std::process::Stdio::null());
        command
    };
    let url = broker.url("mqtt").replace("://", "://user:secret@");
    for version in ["--v3", "--timeout=60"] {
        let arguments = ["pub", "room/1", "21.5", "-q", "1", "-r", "--url", &url, version];
        let output = within("the end of jmqt", command(&arguments).output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let arguments = ["sub", "room/#", "other", "-n", "1", "-H", "--url", &url, version];
        let output = within("the end of jmqt", command(&arguments).output()).await.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "room/1 (QOS 1): 21.5\n");
    }
    let arguments = ["pub", "a/+", "x", "--url", &url];
    let output = within("the end of jmqt", command(&arguments).output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("wildcard") && !said.contains("secret"), "{said}");
}

#[tokio::test]
async fn messages_pass_through_the_server_of_this_repository_over_every_transport_in_both_versions() {
    use jmqt_server::Protocol;
    let server = TestServer::configured(|config| {
        (config.mqtt_port, config.mqtt_websocket_port) = (Some(0), Some(0));
        let ssl = config.ssl.as_mut().unwrap();
        (ssl.mqtt_port, ssl.mqtt_websocket_port) = (Some(0), Some(0));
    })
    .await;
    let schemes = [
        ("mqtt", Protocol::Mqtt),
        ("mqtts", Protocol::SslMqtt),
        ("mqtt+ws", Protocol::MqttWebSocket),
        ("mqtt+wss", Protocol::SslMqttWebSocket),
    ];
    for ((scheme, protocol), version) in
        schemes.into_iter().flat_map(|scheme| VERSIONS.map(|version| (scheme, version)))
    {
        let url = format!("{scheme}://localhost:{}", server.address(protocol).port());
        let mut options = options(&url, version, "mine").login("mine", "x");
        options.tls.ca_path = Some(server.certificate_path());
        let client = connect(options).await;
        let qos = client.information().unwrap().maximum_qos;
        let mut stream = client.subscribe("a/b", Qos::AtMostOnce).await.unwrap();
        client.publish(&Publish::new("a/b", "21.5").unwrap()).await.unwrap();
        assert_eq!(text(&mut stream).await, "21.5", "{version:?} {qos:?}");
        within("the end", client.disconnect()).await;
    }
}

#[tokio::test]
async fn the_command_has_the_options_of_mqtt() {
    use crate::support::{Asked, Behaviour};
    use jmqt_client::StatusCode;
    use jmqt_server::Protocol;
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = |name: &str| format!("mqtt://{name}:x@localhost:{}", server.address(Protocol::Mqtt).port());
    let run = |name: &str, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_jmqt"));
        command.env_clear().args(arguments).args(["--url", &url(name), "--id", name]).kill_on_drop(true);
        command.stdin(std::process::Stdio::null());
        async move {
            let output = within("the end of jmqt", command.output()).await.unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        }
    };
    let will = ["--will-topic", "gone", "--will-message", "x", "--will-qos", "1", "--will-delay", "5"];
    let publish = [&["pub", "room/1", "21.5", "-q", "2", "-r", "--expiry", "60"][..], &will].concat();
    assert_eq!(run("a", &publish).await, (Some(0), String::new(), String::new()));
    let (code, printed, _) = run("b", &["sub", "room/+", "-C", "1", "-v", "--no-local", "--rap"]).await;
    assert_eq!((code, printed.as_str()), (Some(0), "room/1 (QOS 2): 21.5\n"));
    let (code, printed, error) = run("b", &["sub", "room/+", "-W", "0.3", "--retain-handling", "2"]).await;
    assert_eq!((code, printed.as_str()), (Some(5), ""), "{error}");
    let (code, printed, error) = run("c", &["request", "$echo", "[1.50]"]).await;
    assert_eq!((code, printed.as_str()), (Some(0), "[1.50]\n"), "{error}");
    server.app.set(Asked::Control, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, _, error) = run("c", &["request", "$echo"]).await;
    assert_eq!(code, Some(4), "{error}");
    let (code, _, error) = run("c", &["sub", "a", "--clean"]).await;
    assert_eq!(code, Some(2), "{error}");
    // A server that speaks JMQT has none of them.
    for arguments in [
        &["sub", "a", "--no-local"][..],
        &["pub", "a", "1", "--expiry", "5"],
        &["pub", "a", "1", "-q", "2"],
        &["request", "$echo", "--response-topic", "a"],
    ] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_jmqt"));
        command.env_clear().args(arguments).args(["--url", "jmqt://127.0.0.1:1"]);
        let output = within("the end of jmqt", command.output()).await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
    }
}

#[tokio::test] // MQTT-3.3.2-10
async fn the_topics_that_the_server_replaces_by_aliases_are_those_that_were_published() {
    use jmqt_server::Protocol;
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    // The server replaces 32 topics at most; these are more.
    let topics: Vec<_> = (0..40).map(|number| format!("{}/{number}", "long".repeat(40))).collect();
    let publisher = connect(options(&url, Version::V5, "publisher").login("publisher", "x")).await;
    let mut sent = Vec::new();
    for most in [0, 32] {
        let mut wanted = options(&url, Version::V5, "subscriber").login("subscriber", "x");
        wanted.topic_alias_maximum = most;
        let client = connect(wanted).await;
        let mut stream = client.subscribe("+/+", Qos::AtMostOnce).await.unwrap();
        let before = server.counters().bytes_sent;
        for topic in (0..5).flat_map(|_| &topics) {
            publisher.publish(&Publish::new(topic.as_str(), "x").unwrap().at_least_once()).await.unwrap();
            assert_eq!(next(&mut stream).await.topic(), topic);
        }
        sent.push(server.counters().bytes_sent - before);
        within("the end", client.disconnect()).await;
    }
    assert!(sent[1] < sent[0] / 2, "the server used no aliases: {sent:?}");
}
