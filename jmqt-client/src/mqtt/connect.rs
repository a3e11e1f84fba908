//! From a connection to a session: CONNECT and CONNACK (3.1, 3.2).

use bytes::Bytes;
use jmqt_mqtt::{
    Connect, EncodeError, FrameDecoder, Packet, PacketType, Place, Properties, Property, PropertyBuf, Qos,
    ReasonCode, Sender,
};

use super::authentication::{self, Exchange};
use super::{ConnectError, Error, Information, Options, Server};
use crate::Step;
use crate::transport::{Framing, Link, Messages, Turn};
use crate::way::{Found, Report, Way, Words};

const WORDS: Words = Words {
    no_tls: "the port may not use TLS: for a port without TLS, use mqtt:// (1883) or mqtt+ws:// (8083)",
    no_websocket: "the port may be a plain MQTT socket: then use mqtt:// (1883) or mqtts:// (8883)",
    http: "check scheme, port and path: that of an MQTT server is usually mqtt+ws:// on port 8083, or mqtt+wss:// on 8084, at /mqtt",
    no_http: "for a plain MQTT socket use mqtt:// (1883) or mqtts:// (8883)",
    not_mqtt: "it may be the WebSocket of a JMQT server (then use ws:// or wss://), or another path is for MQTT: that is \
        usually /mqtt, on port 8083 (8084 with TLS)",
    tls: "use mqtts:// or mqtt+wss://",
    is_http: "for the WebSocket port of an MQTT server use mqtt+ws:// (8083) or mqtt+wss:// (8084); its TCP port is usually 1883",
};

const NO_ANSWER: &str = "what listens there may not be an MQTT server, or not of this version (--v3) or transport: mqtt:// is \
     1883, mqtts:// 8883, mqtt+ws:// 8083, mqtt+wss:// 8084";

/// MQTT 3.1.1 cannot say how many messages a server takes at a time. Mosquitto queues what is beyond this many, and does not
/// answer all of it after a reconnect.
const USUAL_IN_FLIGHT: u16 = 20;

/// The authentication exchange, between two steps.
type Running = Option<Box<dyn Exchange>>;

/// A connection with a session.
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) frames: FrameDecoder,
    pub(crate) information: Information,
    /// What came behind the CONNACK, from the given place on.
    pub(crate) read: (Bytes, usize),
    pub(crate) rest: Bytes,
}

/// Makes a connection and opens a session on it.
///
/// # Cancel safety
/// The connection is closed with the future.
pub(crate) async fn open(
    options: &Options,
    server: &Server,
    (client_id, clean_start): (&str, bool),
    report: Report<'_>,
) -> Result<Session, ConnectError> {
    let tls = (&options.tls, options.rustls.as_ref());
    let mut way = Way::new(&server.endpoint, tls, options.connect_timeout, &WORDS, report);
    let stream = way.stream().await?;
    let mut link = if server.endpoint.protocol.is_websocket() {
        way.websocket(stream, options.max_packet_bytes, (Messages::Binary, &options.websocket_headers), None)
            .await?
    } else {
        Link::new(stream, Framing::Raw, None)
    };
    let unusable = |error: EncodeError| ConnectError::Will(Box::new(Error::Encode(error)));
    let session = async {
        let mut exchange = None;
        let mut own = PropertyBuf::new();
        if let Some(authentication) = &options.authentication {
            let data;
            (exchange, data) = step(authentication.start()).await?;
            authentication.push(&data, &mut own).map_err(unauthenticated)?;
        }
        connect(options, server, (client_id, clean_start), own, link.portion()).map_err(unusable)?;
        link.send();
        answer(link, options, exchange, (client_id, clean_start)).await
    };
    let session = way.limited(Step::Connect, NO_ANSWER, async { Ok(session.await) }).await??;
    way.done(Step::Connect, Found::Session(session.information.to_string()));
    Ok(session)
}

fn connect(
    options: &Options,
    server: &Server,
    (client_id, clean_start): (&str, bool),
    mut own: PropertyBuf,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let v5 = options.version.has_properties();
    let mut of_will = PropertyBuf::new();
    if v5 {
        let most = u32::try_from(options.max_packet_bytes).unwrap_or(u32::MAX);
        own.push(Property::SessionExpiryInterval(options.expiry_seconds()))?;
        own.push(Property::ReceiveMaximum(options.receive_maximum))?;
        own.push(Property::MaximumPacketSize(most))?;
        own.push(Property::TopicAliasMaximum(options.topic_alias_maximum))?;
        for (name, value) in &options.user_properties {
            own.push(Property::UserProperty((name, value)))?;
        }
        if let Some(will) = &options.will {
            of_will = will.message.properties(will.message.expiry_seconds())?;
            let delay = u32::try_from(will.delay.as_secs()).unwrap_or(u32::MAX);
            of_will.push(Property::WillDelayInterval(delay))?;
        }
    }
    let will_properties = of_will.for_place(Place::Will, Sender::Client)?;
    let (user_name, password) = match &server.login {
        Some((name, password)) => (Some(name), password.as_ref()),
        None => (options.user_name.as_ref(), options.password.as_ref()),
    };
    let packet = Packet::Connect(Connect {
        version: options.version,
        clean_start,
        keep_alive: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id,
        will: options.will.as_ref().map(|will| jmqt_mqtt::Will {
            qos: will.message.qos_value(),
            retain: will.message.is_retained(),
            topic: will.message.topic(),
            payload: will.message.payload(),
            properties: will_properties,
        }),
        user_name: user_name.map(String::as_str),
        password: password.map(super::Password::reveal),
        properties: own.for_place(Place::Packet(PacketType::Connect), Sender::Client)?,
    });
    packet.encode(options.version, out)
}

fn unauthenticated(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ConnectError {
    ConnectError::Authentication(error.into().into())
}

/// What the application sends next in an authentication exchange.
async fn step(step: authentication::Step) -> Result<(Running, Vec<u8>), ConnectError> {
    let (exchange, data) = step.await;
    Ok((Some(exchange), data.map_err(unauthenticated)?))
}

async fn answer(
    mut link: Link,
    options: &Options,
    mut exchange: Running,
    (client_id, clean_start): (&str, bool),
) -> Result<Session, ConnectError> {
    let mut frames = FrameDecoder::new(options.max_packet_bytes);
    let protocol =
        |problem: String| ConnectError::Reach(crate::ConnectError::Protocol { step: Step::Connect, problem });
    let (mut read, mut at, mut heard) = (Bytes::new(), 0, false);
    loop {
        while let Some(incoming) = link.next(&read, &mut at).map_err(|error| protocol(error.to_string()))? {
            let bytes = incoming.to_bytes();
            let mut chunk = &bytes[..];
            let frame = frames
                .next(&mut chunk, Some(options.version))
                .map_err(|error| protocol(error.to_string()))?;
            let Some(frame) = frame else { continue };
            let packet = Packet::decode(&frame, options.version, Sender::Server);
            let ack = match packet.map_err(|error| protocol(error.to_string()))? {
                Packet::ConnAck(ack) => ack,
                Packet::Auth(auth) if auth.reason == ReasonCode::CONTINUE_AUTHENTICATION => {
                    let known = options.authentication.as_ref().zip(exchange.take());
                    let Some((authentication, running)) = known else {
                        return Err(protocol("the server answered with AUTH, unasked".to_owned()));
                    };
                    let challenge = authentication.data(auth.properties).map_err(protocol)?.to_vec();
                    let data;
                    (exchange, data) = step(running.answer(challenge)).await?;
                    authentication
                        .packet(ReasonCode::CONTINUE_AUTHENTICATION, &data, link.portion())
                        .map_err(unauthenticated)?; // [MQTT-4.12.0-3]
                    link.send();
                    continue;
                }
                other => {
                    return Err(protocol(format!("the server answered with {}", other.packet_type().name())));
                }
            };
            if ack.reason.is_error() {
                return Err(ConnectError::Refused {
                    reason: ack.reason,
                    message: ack.properties.reason_string().unwrap_or_default().to_owned(),
                    server_reference: ack.properties.server_reference().map(str::to_owned),
                });
            }
            if clean_start && ack.session_present {
                let problem = "the server continues a session that the client has asked it to end";
                return Err(protocol(problem.to_owned())); // [MQTT-3.2.2-4]
            }
            if let Some((authentication, mut exchange)) = options.authentication.as_ref().zip(exchange) {
                let data = authentication.data(ack.properties).map_err(protocol)?;
                exchange.finish(data).map_err(unauthenticated)?;
            }
            let information = information(options, client_id, ack.session_present, ack.properties);
            let rest = bytes.slice(bytes.len() - chunk.len()..);
            return Ok(Session { link, frames, information, read: (read, at), rest });
        }
        match link.turn().await {
            Ok(Turn::Written) => {}
            Ok(Turn::Read(bytes)) => {
                if !std::mem::replace(&mut heard, true) {
                    WORDS.recognise(&bytes)?;
                }
                (read, at) = (bytes, 0);
            }
            Ok(Turn::End) => return Err(ConnectError::NoAnswer { hint: NO_ANSWER }),
            Err(error) => {
                let refused = crate::transport::certificate_refused(&error);
                let lost = || crate::ConnectError::Lost {
                    step: Step::Connect,
                    because: Some(std::sync::Arc::new(error)),
                    hint: NO_ANSWER.to_owned(),
                };
                return Err(refused.unwrap_or_else(lost).into());
            }
        }
    }
}

fn information(
    options: &Options,
    client_id: &str,
    session_present: bool,
    properties: Properties<'_>,
) -> Information {
    let keep_alive = u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX);
    Information {
        version: options.version,
        client_id: properties.assigned_client_id().unwrap_or(client_id).to_owned(),
        session_present,
        keep_alive: properties.server_keep_alive().unwrap_or(keep_alive), // [MQTT-3.1.2-21]
        session_expiry: properties.session_expiry().unwrap_or(options.expiry_seconds()),
        receive_maximum: properties.receive_maximum().unwrap_or(if options.version.has_properties() {
            u16::MAX
        } else {
            USUAL_IN_FLIGHT
        }),
        maximum_packet_size: properties.maximum_packet_size(),
        maximum_qos: properties.maximum_qos().unwrap_or(Qos::ExactlyOnce),
        retain_available: properties.retain_available().unwrap_or(true),
        wildcards_available: properties.wildcard_subscription_available().unwrap_or(true),
        subscription_ids_available: properties.subscription_identifier_available().unwrap_or(true),
        shared_available: properties.shared_subscription_available().unwrap_or(true),
    }
}
