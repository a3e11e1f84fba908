//! JMQT: from packet text to the handler of its type.
//!
//! A handler reads a packet, calls a verb of the session, and answers. This room does not depend on sockets,
//! databases or validators.

mod answer;
mod auth;
mod conn;
mod goodbye;
mod publish;
mod sub;

use std::ops::ControlFlow;
use std::pin::pin;

use jmqt_protocol::{DecodeError, Packet, PushAck, decode};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::counters::Kind;
use crate::packet_trace;
use crate::session::{Member, Session, cost, verbs};

use answer::{answer, answer_bad_field};
use auth::handle_auth;
use conn::{handle_conn, handle_conn_again};
use publish::handle_pub;
use sub::{handle_sub, handle_unsub};

pub(super) use goodbye::goodbye;

/// A packet of more bytes than this can occupy a thread: up to 10 ns per byte if it consists of tiny members.
const LONG_PACKET: usize = 64 * 1024;

/// Handles one packet text.
pub(super) async fn handle(shared: &Shared, session: &mut Session, text: &[u8]) -> Flow {
    let Ok(text) = simdutf8::basic::from_utf8(text) else {
        return session.bad_packet(&"packet is not UTF-8");
    };
    let decoded = match text.len() > LONG_PACKET {
        false => decode(text),
        true => Box::pin(decode_long(shared, session, text)).await?,
    };
    if packet_trace::is_on()
        && let Ok(packet) = &decoded
    {
        packet_trace::received(session.name(), session.info.remote, packet, text.len());
    }
    match decoded {
        // The most frequent packets, with as few moves as possible.
        Ok(Packet::Pub(publish)) if session.member.is_some() => {
            // An `if let` guard would need Rust 1.95.
            let Some(member) = &session.member else { return CONTINUE };
            let client = member.client.clone();
            session.good_packet();
            handle_pub(shared, session, &client, &publish).await
        }
        Ok(Packet::PushAck(ack)) if session.member.is_some() => {
            session.good_packet();
            handle_push_ack(shared, session, &ack)
        }
        Ok(packet) => Box::pin(handle_packet(shared, session, packet)).await,
        Err(error) => {
            if let DecodeError::BadField { kind, problem, echo } = &error {
                answer_bad_field(session, *kind, problem, echo);
            }
            session.bad_packet(&error)
        }
    }
}

/// Decodes a long packet. Long packets take turns, so the clients that send them delay only each other.
async fn decode_long<'t>(
    shared: &Shared,
    session: &mut Session,
    text: &'t str,
) -> Flow<Result<Packet<'t>, DecodeError>> {
    let _turn = session.wait(pin!(shared.long_packets.acquire())).await?;
    session.end_batch().await;
    session.spend(cost::LOOK);
    ControlFlow::Continue(beside_other_tasks(|| decode(text)))
}

/// Calls a function that takes milliseconds. The other tasks of this thread run on another thread meanwhile, unless
/// the runtime has only this one.
fn beside_other_tasks<T>(compute: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(compute),
        _ => compute(),
    }
}

async fn handle_packet(shared: &Shared, session: &mut Session, packet: Packet<'_>) -> Flow {
    session.begin_request().await;
    match session.member.clone() {
        Some(member) => handle_in_session(shared, session, member, packet).await,
        None => handle_before_conn(shared, session, packet).await,
    }
}

/// Counts one of the less frequent packets.
fn count(session: &Session, packet: &Packet<'_>) {
    session.count_packet(match packet {
        Packet::Hb => Kind::Ping,
        Packet::Sub(_) => Kind::Subscribe,
        Packet::Unsub(_) => Kind::Unsubscribe,
        Packet::Auth(_) => Kind::Auth,
        Packet::Conn(_) => Kind::Connect,
        Packet::Disconn(_) => Kind::Disconnect,
        _ => return,
    });
}

/// Handles the less frequent packets of a session.
async fn handle_in_session(
    shared: &Shared,
    session: &mut Session,
    member: Member,
    packet: Packet<'_>,
) -> Flow {
    let kind = packet.packet_type();
    count(session, &packet);
    let client = &member.client;
    let flow = match packet {
        Packet::Hb => {
            answer(session, &Packet::HbAck);
            CONTINUE
        }
        Packet::Sub(sub) => handle_sub(shared, session, client, sub).await,
        Packet::Unsub(unsub) => handle_unsub(shared, session, client, unsub).await,
        Packet::Auth(auth) => handle_auth(shared, session, auth).await,
        Packet::Conn(conn) => handle_conn_again(shared, session, client, &conn),
        Packet::Disconn(_) => verbs::leave(shared, session, client).await,
        _ => return session.bad_packet(&format_args!("a client must not send {kind}")),
    };
    session.good_packet();
    flow
}

/// Handles a packet before `conn` has succeeded: only `auth` and `conn` are answered (2.1).
async fn handle_before_conn(shared: &Shared, session: &mut Session, packet: Packet<'_>) -> Flow {
    count(session, &packet);
    let flow = match packet {
        Packet::Auth(auth) => handle_auth(shared, session, auth).await,
        Packet::Conn(conn) => handle_conn(shared, session, conn).await,
        other => {
            let kind = other.packet_type();
            return session.bad_packet(&format_args!("{kind} before conn"));
        }
    };
    session.good_packet();
    flow
}

/// Handles a `pushAck` (§7.n, protocol.md 2.14) of any status: the client has received the message.
fn handle_push_ack(shared: &Shared, session: &mut Session, ack: &PushAck<'_>) -> Flow {
    session.count_acknowledgement();
    verbs::acknowledge(shared, session, session.outbox.context.ids.parse(&ack.id));
    CONTINUE
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_run_while_a_long_packet_is_decoded() {
        let (began, beginning) = tokio::sync::oneshot::channel();
        let (answer, answered) = mpsc::channel();
        let decoding = tokio::spawn(async move {
            beside_other_tasks(|| {
                began.send(()).unwrap();
                answered.recv_timeout(Duration::from_secs(60))
            })
        });
        beginning.await.unwrap();
        tokio::spawn(async move { answer.send("answer") }).await.unwrap().unwrap();
        assert_eq!(decoding.await.unwrap(), Ok("answer"));
    }

    #[tokio::test]
    async fn a_runtime_with_one_thread_decodes_long_packets_too() {
        assert_eq!(beside_other_tasks(|| 1), 1);
    }
}
