//! Enhanced authentication: exchanges with AUTH (3.15, 4.12).

use std::time::{Duration, Instant};

use jmqt_mqtt::Auth;
use jmqt_server::{
    AuthExchange, AuthStep, AuthToken, AuthVerdict, BoxError, ClientId, ConnVerdict, ExchangeRequest,
    async_trait,
};

use super::*;

/// Asks `why?` until the answer is `please`, and then proves itself with `welcome`.
struct Toy;

#[async_trait]
impl AuthExchange for Toy {
    async fn start(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError> {
        match request.data {
            Some(b"at once") => self.next(request).await,
            _ => Ok(AuthStep::challenge("why?")),
        }
    }

    async fn next(&mut self, request: &ExchangeRequest<'_>) -> Result<AuthStep, BoxError> {
        let id = match request.client_id {
            "" => "assigned",
            id => id,
        };
        let grant = |id: &str| {
            let token = AuthToken::new(format!("token-{id}"));
            ClientId::parse(id).map(|id| AuthVerdict::grant(id, token))
        };
        Ok(match request.data {
            Some(b"please") => AuthStep::done_with(grant(id)?, "welcome"),
            Some(b"at once") => AuthStep::done(grant(id)?),
            Some(b"somebody else") => AuthStep::done(grant("mallory")?),
            Some(b"long") => AuthStep::challenge([b'?'; 300]),
            Some(b"too long") => AuthStep::challenge(vec![b'?'; 65_536]),
            Some(b"fail") => return Err("as the test wants it".into()),
            Some(b"panic") => panic!("as the test wants it"),
            Some(b"wrong") => AuthStep::done(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "wrong")),
            Some(b"invalid") => AuthStep::done(AuthVerdict::refuse(StatusCode::INVALID_TOKEN, "invalid")),
            _ => AuthStep::challenge("why?"),
        })
    }
}

async fn start_with_toy(configure: impl FnOnce(&mut jmqt_server::Config)) -> TestServer {
    let server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        configure(config);
    })
    .await;
    server.app.on_exchange(|request| (request.method == "toy").then(|| Box::new(Toy) as _));
    server
}

fn buffer(of: &[Property<'_>]) -> PropertyBuf {
    let mut properties = PropertyBuf::new();
    of.iter().for_each(|property| properties.push(*property).unwrap());
    properties
}

/// A packet of an exchange: reason code, method, data.
type Step = (ReasonCode, Option<String>, Option<Vec<u8>>);

fn step(reason: ReasonCode, properties: Properties<'_>) -> Step {
    let method = properties.authentication_method().map(ToOwned::to_owned);
    (reason, method, properties.authentication_data().map(<[u8]>::to_vec))
}

fn toy(reason: ReasonCode, data: Option<&[u8]>) -> Step {
    (reason, Some("toy".to_owned()), data.map(<[u8]>::to_vec))
}

const CONTINUE: ReasonCode = ReasonCode::CONTINUE_AUTHENTICATION;
const AGAIN: ReasonCode = ReasonCode::RE_AUTHENTICATE;

impl Device {
    async fn begin(&mut self, id: &str, data: Option<&[u8]>, more: &[Property<'_>]) {
        let mut properties = buffer(more);
        properties.push(Property::AuthenticationMethod("toy")).unwrap();
        data.into_iter().for_each(|data| properties.push(Property::AuthenticationData(data)).unwrap());
        let packet = Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive: 0,
            client_id: id,
            will: None,
            user_name: Some("user"),
            password: None,
            properties: properties.for_place(Place::Packet(PacketType::Connect), Sender::Client).unwrap(),
        };
        self.send(&Packet::Connect(packet)).await;
    }

    async fn auth(&mut self, reason: ReasonCode, method: &str, data: &[u8]) {
        let properties =
            buffer(&[Property::AuthenticationMethod(method), Property::AuthenticationData(data)]);
        let properties = properties.for_place(Place::Packet(PacketType::Auth), Sender::Client).unwrap();
        self.send(&Packet::Auth(Auth { reason, properties })).await;
    }

    async fn auth_answer(&mut self) -> Step {
        self.next(|packet| match packet {
            Packet::Auth(auth) => step(auth.reason, auth.properties),
            other => panic!("{other:?}"),
        })
        .await
    }

    async fn connack(&mut self) -> Step {
        self.next(|packet| match packet {
            Packet::ConnAck(ack) => step(ack.reason, ack.properties),
            other => panic!("{other:?}"),
        })
        .await
    }

    /// A client with a session.
    async fn authenticated(server: &TestServer, id: &str) -> Self {
        let mut device = Self::dial(server, Version::V5).await;
        device.begin(id, Some(b"at once"), &[]).await;
        assert_eq!(device.connack().await, toy(ReasonCode::SUCCESS, None));
        device
    }

    async fn expect_refusal(mut self, reason: ReasonCode) {
        assert_eq!(self.connack().await, (reason, None, None));
        assert_eq!(self.read_packet().await, None, "the connection goes on");
    }
}

#[tokio::test] // MQTT-4.12.0-2, -3, -5
async fn an_exchange_of_several_steps_ends_with_a_session() {
    let server = start_with_toy(|_| {}).await;
    let mut device = Device::dial(&server, Version::V5).await;
    device.begin("alice", None, &[]).await;
    assert_eq!(device.auth_answer().await, toy(CONTINUE, Some(b"why?")));
    device.auth(CONTINUE, "toy", b"because").await;
    assert_eq!(device.auth_answer().await, toy(CONTINUE, Some(b"why?")));
    device.auth(CONTINUE, "toy", b"please").await;
    assert_eq!(device.connack().await, toy(ReasonCode::SUCCESS, Some(b"welcome")));
    assert_eq!(server.app.asked(Asked::Conn).await, "alice");
    assert_eq!(device.subscribe("$p2p/alice", Qos::AtMostOnce).await, ReasonCode::SUCCESS);

    // The client id may be left to the application.
    let mut device = Device::dial(&server, Version::V5).await;
    device.begin("", Some(b"at once"), &[]).await;
    device
        .next(|packet| match packet {
            Packet::ConnAck(ack) => assert_eq!(ack.properties.assigned_client_id(), Some("assigned")),
            other => panic!("{other:?}"),
        })
        .await;
}

#[tokio::test] // MQTT-4.12.0-1, -4
async fn an_exchange_that_fails_ends_the_connection_with_the_reason() {
    let server = start_with_toy(|_| {}).await;
    for (answer, reason) in [
        (&b"wrong"[..], ReasonCode::NOT_AUTHORIZED),
        (b"invalid", ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (b"fail", ReasonCode::SERVER_UNAVAILABLE),
        (b"panic", ReasonCode::SERVER_UNAVAILABLE),
        (b"too long", ReasonCode::SERVER_UNAVAILABLE),
        (b"somebody else", ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
    ] {
        let mut device = Device::dial(&server, Version::V5).await;
        device.begin("alice", None, &[]).await;
        device.auth_answer().await;
        device.auth(CONTINUE, "toy", answer).await;
        device.expect_refusal(reason).await;
    }
    let mut device = Device::dial(&server, Version::V5).await;
    device.begin("alice", None, &[Property::MaximumPacketSize(200)]).await;
    device.auth_answer().await;
    device.auth(CONTINUE, "toy", b"long").await;
    device.expect_refusal(ReasonCode::PACKET_TOO_LARGE).await;
    assert_eq!(server.app.times_asked(Asked::Conn).await, 0);
}

#[tokio::test] // MQTT-3.1.2-30, MQTT-3.1.4-6, MQTT-4.12.0-5
async fn before_the_end_of_the_exchange_only_its_next_step_is_allowed() {
    let server = start_with_toy(|_| {}).await;
    let wrong_steps: [(ReasonCode, &str); 2] = [(CONTINUE, "other"), (AGAIN, "toy")];
    for (reason, method) in wrong_steps {
        let mut device = Device::dial(&server, Version::V5).await;
        device.begin("alice", None, &[]).await;
        device.auth_answer().await;
        device.auth(reason, method, b"please").await;
        device.expect_refusal(ReasonCode::PROTOCOL_ERROR).await;
    }
    let news = Publish {
        delivery: Delivery::AtMostOnce,
        retain: true,
        topic: "news",
        properties: Properties::EMPTY,
        payload: b"1",
    };
    for packet in [Packet::Publish(news), Packet::PingReq] {
        let mut device = Device::dial(&server, Version::V5).await;
        device.begin("alice", None, &[]).await;
        device.auth_answer().await;
        device.send(&packet).await;
        device.expect_refusal(ReasonCode::PROTOCOL_ERROR).await;
    }
    let mut device = Device::dial(&server, Version::V5).await;
    device.begin("alice", None, &[]).await;
    device.auth_answer().await;
    device.disconnect(ReasonCode::SUCCESS, None).await;
    assert_eq!(device.read_packet().await, None);
    let mut other = Device::new(&server, Version::V5, Login::of("other")).await;
    other.subscribe("news", Qos::AtMostOnce).await;
    other.expect_nothing().await;
}

#[tokio::test] // 4.12: the server may limit it
async fn an_exchange_has_at_most_ten_packets_of_the_client() {
    let server = start_with_toy(|_| {}).await;
    let mut device = Device::dial(&server, Version::V5).await;
    device.begin("alice", None, &[]).await;
    for _ in 0..9 {
        assert_eq!(device.auth_answer().await.0, CONTINUE);
        device.auth(CONTINUE, "toy", b"because").await;
    }
    device.expect_refusal(ReasonCode::QUOTA_EXCEEDED).await;

    let mut device = Device::authenticated(&server, "alice").await;
    device.auth(AGAIN, "toy", b"").await;
    for _ in 0..9 {
        assert_eq!(device.auth_answer().await.0, CONTINUE);
        device.auth(CONTINUE, "toy", b"because").await;
    }
    assert_eq!(device.ended().await, Some(ReasonCode::QUOTA_EXCEEDED));
}

#[tokio::test] // 4.12.1
async fn a_client_authenticates_again_while_its_session_goes_on() {
    let server = start_with_toy(|_| {}).await;
    let mut device = Device::authenticated(&server, "alice").await;
    for _ in 0..2 {
        device.auth(AGAIN, "toy", b"").await;
        assert_eq!(device.auth_answer().await, toy(CONTINUE, Some(b"why?")));
        // Other packets are handled meanwhile.
        assert_eq!(device.subscribe("news", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
        device.auth(CONTINUE, "toy", b"please").await;
        assert_eq!(device.auth_answer().await, toy(ReasonCode::SUCCESS, Some(b"welcome")));
    }
    device.publish("news", b"1", Delivery::AtMostOnce, false).await;
    assert_eq!(device.message().await.0, "news");
}

#[tokio::test] // MQTT-4.12.1-1, -2, MQTT-4.12.0-7
async fn a_client_that_fails_to_authenticate_again_is_disconnected() {
    let server = start_with_toy(|_| {}).await;
    for (steps, reason) in [
        (&[(AGAIN, "other", &b"at once"[..])][..], ReasonCode::PROTOCOL_ERROR),
        (&[(CONTINUE, "toy", b"please")], ReasonCode::PROTOCOL_ERROR),
        (&[(AGAIN, "toy", b""), (AGAIN, "toy", b"please")], ReasonCode::PROTOCOL_ERROR),
        (&[(AGAIN, "toy", b""), (CONTINUE, "other", b"please")], ReasonCode::PROTOCOL_ERROR),
        (&[(AGAIN, "toy", b""), (CONTINUE, "toy", b"wrong")], ReasonCode::NOT_AUTHORIZED),
        (&[(AGAIN, "toy", b""), (CONTINUE, "toy", b"fail")], ReasonCode::UNSPECIFIED_ERROR),
        (&[(AGAIN, "toy", b""), (CONTINUE, "toy", b"somebody else")], ReasonCode::NOT_AUTHORIZED),
    ] {
        let mut device = Device::authenticated(&server, "alice").await;
        for (index, (code, method, data)) in steps.iter().enumerate() {
            if index > 0 {
                assert_eq!(device.auth_answer().await, toy(CONTINUE, Some(b"why?")));
            }
            device.auth(*code, method, data).await;
        }
        assert_eq!(device.ended().await, Some(reason), "{steps:?}");
    }
    // The application withdraws its permission.
    let mut device = Device::authenticated(&server, "alice").await;
    server.app.set(Asked::Conn, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    device.auth(AGAIN, "toy", b"at once").await;
    assert_eq!(device.ended().await, Some(ReasonCode::NOT_AUTHORIZED));
    server.app.reset(Asked::Conn);
    // Without a method in CONNECT there is nothing to repeat.
    let mut device = Device::new(&server, Version::V5, Login::of("bob")).await;
    device.auth(AGAIN, "toy", b"at once").await;
    assert_eq!(device.ended().await, Some(ReasonCode::PROTOCOL_ERROR));
}

#[tokio::test] // protocol.md 2.2
async fn authenticating_again_renews_the_time_of_a_session() {
    let server = start_with_toy(|_| {}).await;
    let times = std::sync::Mutex::new(vec![None, Some(Duration::ZERO), Some(Duration::from_secs(3600))]);
    server.app.on_conn(move |_| {
        Ok(match times.lock().unwrap().pop().unwrap() {
            Some(time) => ConnVerdict::accept().valid_for(time),
            None => ConnVerdict::accept(),
        })
    });
    // An hour, which is shortened, or nothing more.
    let mut device = Device::authenticated(&server, "alice").await;
    device.auth(AGAIN, "toy", b"at once").await;
    assert_eq!(device.auth_answer().await, toy(ReasonCode::SUCCESS, None));
    assert_eq!(device.ended().await, Some(ReasonCode::NOT_AUTHORIZED));
    let _device = Device::authenticated(&server, "alice").await;
}

#[tokio::test] // protocol.md 2.15
async fn a_client_that_does_not_answer_a_challenge_is_disconnected_in_time() {
    let server = start_with_toy(|config| config.timeout = Duration::from_secs(5)).await;
    let mut silent = Device::dial(&server, Version::V5).await;
    silent.begin("silent", None, &[]).await;
    silent.auth_answer().await;
    let mut busy = Device::authenticated(&server, "busy").await;
    busy.auth(AGAIN, "toy", b"").await;
    busy.auth_answer().await;
    let mut done = Device::authenticated(&server, "done").await;
    done.auth(AGAIN, "toy", b"").await;
    done.auth_answer().await;
    done.auth(CONTINUE, "toy", b"please").await;
    done.auth_answer().await;
    let began = Instant::now();
    // Pings do not help, although the client has no keep alive.
    for _ in 0..3 {
        busy.expect_nothing().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(busy.ended().await, Some(ReasonCode::KEEP_ALIVE_TIMEOUT));
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(silent.read_packet().await, None);
    done.expect_nothing().await;
}

#[tokio::test] // 4.12
async fn the_connects_that_are_held_during_exchanges_are_limited_together() {
    let server = start_with_toy(|config| {
        config.max_preconn_packet_bytes = 8 * 1024;
        config.max_total_preconn_bytes = 64 * 1024;
    })
    .await;
    let mut held = Vec::new();
    while let Some(device) = held_in_an_exchange(&server).await {
        held.push(device);
        assert!(held.len() < 40, "nothing is limited");
    }
    assert!(held.len() > 5, "{}", held.len());
    drop(held);
    within("room for another client", async {
        while held_in_an_exchange(&server).await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A client whose large CONNECT the server holds; `None` if it has closed the connection instead.
async fn held_in_an_exchange(server: &TestServer) -> Option<Device> {
    let filler = "x".repeat(6000);
    let mut device = Device::dial(server, Version::V5).await;
    device.begin("alice", None, &[Property::UserProperty(("filler", &filler))]).await;
    device.read_packet().await?;
    let properties = buffer(&[Property::AuthenticationMethod("toy")]);
    let properties = properties.for_place(Place::Packet(PacketType::Auth), Sender::Client).unwrap();
    let next = Packet::Auth(Auth { reason: CONTINUE, properties }).to_bytes(Version::V5).unwrap();
    device.stream.write_all(&next).await.ok()?;
    device.read_packet().await?;
    Some(device)
}
