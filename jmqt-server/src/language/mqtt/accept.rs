//! CONNACK: accepting and refusing a CONNECT (3.2).

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::pin::pin;

use bytes::Bytes;
use jmqt_core::{ChannelKind, ClientId, Retain, StatusCode};
use jmqt_mqtt::{
    ConnAck, Connect, Packet, PacketType, Properties, Property, PropertyBuf, ReasonCode, Version,
};

use super::exchange::{self, Authentication};
use super::farewell::Farewell;
use super::publish::{TOPIC_ALIASES, channel_of, message_attributes};
use super::{Client, State, answer, fitting, of_packet};
use crate::connection::{CloseReason, Flow};
use crate::context::{Limits, Shared};
use crate::counters::Kind;
use crate::log_limit::{log_limited, shortened};
use crate::message::Data;
use crate::session::verbs::{Language, MqttSession, NewWill, NotOpened, Opening, Redelivery};
use crate::session::{Session, verbs};
use crate::validators::{Grant, MqttConnect};

/// Sends a CONNACK with this reason. The connection ends afterwards.
pub(super) fn refuse(session: &mut Session, reason: ReasonCode) {
    refuse_with(session, reason, Properties::EMPTY);
}

fn refuse_with(session: &mut Session, reason: ReasonCode, properties: Properties<'_>) {
    session.count_refused(Kind::Connect, reason.code().into());
    let packet = ConnAck { session_present: false, reason, properties };
    let bare = ConnAck { properties: Properties::EMPTY, ..packet };
    let packet = if fitting(session, &Packet::ConnAck(packet)).is_some() { packet } else { bare };
    let _ = answer(session, &Packet::ConnAck(packet));
}

/// Refuses a CONNECT, and ends the connection (3.2.2.2). A client with MQTT 5 gets the text (3.2.2.3.9).
pub(super) fn reject(
    shared: &Shared,
    session: &mut Session,
    connect: &Connect<'_>,
    reason: ReasonCode,
    text: &str,
) -> Flow {
    let (client, remote) = (shortened(connect.client_id), session.info.remote);
    log_limited!(info, each: (reason, text, client, remote.ip()), target: "jmqt::session", client, %remote, %reason, text, "refused: CONNECT");
    if matches!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::NOT_AUTHORIZED) {
        shared.hub.counters.refusals_closed.increment();
    }
    // Before MQTT 5 not every reason has a return code.
    if connect.version == Version::V5 {
        let mut properties = PropertyBuf::new();
        if !text.is_empty() {
            let _ = properties.push(Property::ReasonString(text)); // a text that is too long is left out
        }
        refuse_with(session, reason, of_packet(&properties, PacketType::ConnAck));
    } else if reason.connack_v3().is_some() {
        refuse(session, reason);
    }
    ControlFlow::Break(CloseReason::LoginRefused)
}

/// Begins the session of a client that has proved its identity, by an authentication method if it has named one, whose last
/// data is sent with the CONNACK.
pub(super) async fn accept(
    shared: &Shared,
    session: &mut Session,
    state: &mut State,
    connect: &Connect<'_>,
    grant: Grant,
    authenticated: Option<(&str, Option<&[u8]>)>,
) -> Flow {
    let (version, asked) = (connect.version, connect.properties);
    if !connect.client_id.is_empty() && grant.client.as_str() != connect.client_id {
        let text = "the application gives this user another client id: connect with that one, or with none";
        return reject(shared, session, connect, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, text);
    }
    let will = match will(shared, session, connect, &grant.client).await? {
        Ok(will) => will,
        Err((reason, text)) => return reject(shared, session, connect, reason, &text),
    };
    let has_will = will.is_some();
    let expiry = session_expiry(&shared.limits, connect);
    let mut announced = announced(shared, connect, &grant.client, expiry);
    if let Some((method, data)) = authenticated {
        exchange::push(&mut announced, method, data);
    }
    let accepted = ConnAck {
        session_present: false,
        reason: ReasonCode::SUCCESS,
        properties: of_packet(&announced, PacketType::ConnAck),
    };
    if fitting(session, &Packet::ConnAck(accepted)).is_none() {
        let text = "CONNACK is longer than the maximum packet size of the client";
        return reject(shared, session, connect, ReasonCode::PACKET_TOO_LARGE, text);
    }
    if version == Version::V5 {
        session.outbox.set_topic_aliases(asked.topic_alias_maximum().unwrap_or(0));
    }
    let opening = Opening {
        client: grant.client.clone(),
        token: grant.token.reveal(),
        window: Some(asked.receive_maximum().unwrap_or(u16::MAX).into()),
        redelivery: Redelivery::AtOnce,
        publisher: None,
        language: Language::Mqtt(MqttSession { is_clean: connect.clean_start, expiry, will }),
    };
    let opened = match verbs::open(shared, session, opening).await? {
        Ok(opened) => opened,
        Err(NotOpened::Refused(status)) => {
            return reject(shared, session, connect, refused_login(status), "");
        }
        Err(NotOpened::TooManyTakeovers(_)) => {
            let text = "connections with this client id end each other: give each client its own id";
            return reject(shared, session, connect, ReasonCode::SERVER_BUSY, text);
        }
    };
    session.keep_alive(connect.keep_alive);
    *state = State::Connected(Box::new(Client {
        version,
        expiry,
        is_stored: opened.is_stored(),
        wants_reasons: asked.request_problem_information() != Some(false),
        aliases: Vec::new(),
        has_will,
        replies: None,
        authentication: authenticated.map(|(method, _)| Box::new(Authentication::new(method))),
        farewell: Farewell::Usual,
    }));
    let packet = ConnAck {
        // MQTT 3.1 does not have this flag.
        session_present: opened.is_resumed() && version != Version::V3_1,
        ..accepted
    };
    answer(session, &Packet::ConnAck(packet))?;
    verbs::start(shared, session, opened).await
}

/// What the client must know of the server (3.2.2.3).
fn announced(shared: &Shared, connect: &Connect<'_>, id: &ClientId, expiry: u32) -> PropertyBuf {
    let mut properties = PropertyBuf::new();
    if connect.version == Version::V5 {
        let own = [
            connect.client_id.is_empty().then(|| Property::AssignedClientIdentifier(id.as_str())),
            (expiry < connect.properties.session_expiry().unwrap_or(0))
                .then_some(Property::SessionExpiryInterval(expiry)),
            Some(Property::ReceiveMaximum(shared.limits.receive_maximum)),
            Some(Property::TopicAliasMaximum(TOPIC_ALIASES)),
            u32::try_from(shared.limits.packet_bytes).ok().map(Property::MaximumPacketSize),
            Some(Property::SharedSubscriptionAvailable(true)),
        ];
        for property in own.into_iter().flatten() {
            // They are within the limits of a property.
            let _ = properties.push(property);
        }
    }
    properties
}

/// The seconds for which the session outlives its connection: at most SESSION_EXPIRY_SECONDS. Before MQTT 5 a client can
/// only tell whether it does.
fn session_expiry(limits: &Limits, connect: &Connect<'_>) -> u32 {
    let asked = match connect.version {
        Version::V5 => connect.properties.session_expiry().unwrap_or(0),
        _ if connect.clean_start => 0,
        _ => u32::MAX,
    };
    asked.min(limits.session_expiry_seconds)
}

/// What validators see of a CONNECT.
pub(super) const fn asked_of<'a>(connect: &Connect<'a>) -> MqttConnect<'a> {
    MqttConnect {
        version: connect.version.level(),
        client_id: connect.client_id,
        user_name: connect.user_name,
        password: connect.password,
    }
}

pub(super) fn refused_login(status: StatusCode) -> ReasonCode {
    match status {
        StatusCode::INVALID_TOKEN | StatusCode::FAILED => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        StatusCode::SERVER_ERROR => ReasonCode::SERVER_UNAVAILABLE,
        StatusCode::INVALID_PACKET => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        _ => ReasonCode::NOT_AUTHORIZED,
    }
}

/// The will of a CONNECT, if the application allows it.
async fn will(
    shared: &Shared,
    session: &mut Session,
    connect: &Connect<'_>,
    id: &ClientId,
) -> Flow<Result<Option<NewWill>, (ReasonCode, Cow<'static, str>)>> {
    let Some(will) = connect.will else { return ControlFlow::Continue(Ok(None)) };
    let channel = match channel_of(will.topic) {
        Ok(channel) if channel.kind() != ChannelKind::Control => channel,
        Ok(_) => {
            let text = "the topic of a will must not begin with $, except for $p2p/";
            return ControlFlow::Continue(Err((ReasonCode::TOPIC_NAME_INVALID, text.into())));
        }
        Err(refusal) => {
            return ControlFlow::Continue(Err((
                refusal.reason,
                "the topic of the will cannot be used".into(),
            )));
        }
    };
    if will.properties.payload_format_indicator() == Some(true) && std::str::from_utf8(will.payload).is_err()
    {
        let text = "the will is declared as UTF-8, and is not";
        return ControlFlow::Continue(Err((ReasonCode::PAYLOAD_FORMAT_INVALID, text.into())));
    }
    let retain = if will.retain { Retain::Yes } else { Retain::No };
    let qos = will.qos.into();
    let attributes =
        message_attributes(connect.version, will.properties, qos, will.retain, NewWill::PUBLISHED);
    let delay = match connect.version {
        // No session lasts longer.
        Version::V5 => will.properties.will_delay().unwrap_or(0).min(shared.limits.session_expiry_seconds),
        _ => 0,
    };
    let data = Data::new(Bytes::copy_from_slice(will.payload), attributes);
    let will = NewWill { channel, data, qos, retain, delay };
    let (info, attached) = (session.info, session.attached.clone());
    let data = attached.as_ref().and_then(|attached| attached.data_for(id));
    let is_allowed = session.wait(pin!(verbs::is_will_allowed(shared, info, id, data, &will))).await?;
    if is_allowed {
        return ControlFlow::Continue(Ok(Some(will)));
    }
    let topic = shortened(connect.will.map_or("", |will| will.topic));
    let text = format!(
        "the will is refused: the client may not publish to `{topic}`. Connect without it, or with another topic"
    );
    ControlFlow::Continue(Err((ReasonCode::NOT_AUTHORIZED, text.into())))
}
