//! A language for tests, made of text lines. It shows what a second language needs, and that the hub, the outbox, the
//! bus and the store do not depend on the language.
//!
//! A client sends `CONN name`, `SUB channel`, `SUB1 channel` (persistent), `UNSUB channel`, `PUB channel text`, `KEEP
//! channel text` (retained), `PUB1 id channel text` (QoS 1), `GOT push` (an acknowledgement), `ASK channel text` (a
//! control request) and `BYE`, each with a NUL byte at the end. `wire/lines.rs` has the lines that it receives.

use jmqt_core::{ChannelName, ClientId, Payload, Persistence, Qos, Retain, StatusCode};

use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::session::verbs::{Language, NotOpened, Opening, Publication, Redelivery};
use crate::session::{Session, verbs};
use crate::validators::PubData;
use crate::wire::ReceiptRef;
use crate::wire::lines::line;

/// Handles one line.
pub(super) async fn handle(shared: &Shared, session: &mut Session, text: &[u8]) -> Flow {
    let Ok(text) = std::str::from_utf8(text) else { return session.bad_packet(&"packet is not UTF-8") };
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let client = session.member.as_ref().map(|member| member.client.clone());
    if !verb.starts_with("PUB") {
        session.begin_request().await;
    }
    match (verb, client) {
        ("CONN", None) => connect(shared, session, rest).await,
        ("SUB", Some(client)) => subscribe(shared, session, &client, rest, Persistence::Temporary).await,
        ("SUB1", Some(client)) => subscribe(shared, session, &client, rest, Persistence::Persistent).await,
        ("UNSUB", Some(client)) => {
            let Ok(channel) = ChannelName::parse(rest) else { return session.bad_packet(&"bad channel") };
            let status = verbs::unsubscribe(shared, session, &client, &channel).await?;
            answer(session, &format!("UNSUB {channel} {}", status.code()))
        }
        ("PUB", Some(client)) => publish(shared, session, &client, None, rest, Retain::No).await,
        ("KEEP", Some(client)) => publish(shared, session, &client, None, rest, Retain::Yes).await,
        ("PUB1", Some(client)) => {
            let (id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            publish(shared, session, &client, Some(id), rest, Retain::No).await
        }
        ("GOT", Some(_)) => {
            verbs::acknowledge(shared, session, session.outbox.context.ids.parse(rest));
            CONTINUE
        }
        ("ASK", Some(client)) => {
            let (channel, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let Ok(channel) = ChannelName::parse(channel) else { return session.bad_packet(&"bad channel") };
            let json = serde_json::to_string(text).unwrap();
            let data = Some(Payload::parse(&json).unwrap());
            let reply = verbs::control(shared, session, &client, &channel, data).await?;
            answer(session, &format!("ASK {channel} {}", reply.status.code()))
        }
        ("BYE", Some(client)) => verbs::leave(shared, session, &client).await,
        _ => session.bad_packet(&"unknown line"),
    }
}

/// The last line to a client.
pub(super) fn goodbye(disconnect: &Disconnect) -> Vec<u8> {
    line(&format!("END {}", disconnect.code().code()))
}

fn answer(session: &mut Session, text: &str) -> Flow {
    let is_full = session.outbox.answer(line(text));
    session.answered(is_full);
    CONTINUE
}

async fn connect(shared: &Shared, session: &mut Session, name: &str) -> Flow {
    let Ok(client) = ClientId::parse(name) else { return session.bad_packet(&"bad name") };
    let opening = Opening {
        client,
        token: "",
        window: None,
        redelivery: Redelivery::AtOnce,
        publisher: None,
        language: Language::Jmqt,
    };
    match verbs::open(shared, session, opening).await? {
        Ok(opened) => {
            answer(session, "CONN 1")?;
            verbs::start(shared, session, opened).await
        }
        Err(NotOpened::Refused(status)) => answer(session, &format!("CONN {}", status.code())),
        Err(NotOpened::TooManyTakeovers(_)) => {
            answer(session, &format!("CONN {}", StatusCode::SERVER_ERROR.code()))
        }
    }
}

async fn subscribe(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &str,
    persistence: Persistence,
) -> Flow {
    let Ok(channel) = ChannelName::parse(channel) else { return session.bad_packet(&"bad channel") };
    match verbs::subscribe(shared, session, client, &channel, persistence).await? {
        Ok(subscribed) => {
            let ack = line(&format!("SUB {channel} 1"));
            let is_full = session.outbox.open(&subscribed.subscription, Some(ack), subscribed.retained);
            session.answered(is_full);
            CONTINUE
        }
        Err(refused) => answer(session, &format!("SUB {channel} {}", refused.status().code())),
    }
}

async fn publish(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    id: Option<&str>,
    rest: &str,
    retain: Retain,
) -> Flow {
    let (channel, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let Ok(channel) = ChannelName::parse(channel) else { return session.bad_packet(&"bad channel") };
    let json = serde_json::to_string(text).unwrap();
    let publication = Publication {
        data: PubData::json(Payload::parse(&json).unwrap()),
        qos: if id.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce },
        retain,
        receipt: ReceiptRef::of_jmqt(id),
        number: None,
        received: None,
    };
    match verbs::publish(shared, session, client, &channel, &publication).await? {
        Ok(()) => CONTINUE,
        Err(status) => answer(session, &format!("DONE {} {}", id.unwrap_or("-"), status.code())),
    }
}
