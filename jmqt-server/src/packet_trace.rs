//! The packets in the log with `LOG_MODE = "TRC"`: type, channel, ids, status and size; never data, tokens or auth
//! data.
//!
//! While the trace is off, a packet costs one comparison with a number in memory.

use std::fmt;

use jmqt_core::{Persistence, Qos, Retain, StatusCode};
use jmqt_protocol::{AuthOutcome, ConnAck, Packet};

/// The target of the log lines.
macro_rules! target {
    () => {
        "jmqt::packet"
    };
}

/// Returns `true` if packets are logged.
#[inline]
pub(crate) fn is_on() -> bool {
    tracing::enabled!(target: target!(), tracing::Level::TRACE)
}

/// A packet of a client.
pub(crate) fn received(client: &str, remote: std::net::SocketAddr, packet: &Packet<'_>, bytes: usize) {
    tracing::trace!(target: target!(), client, %remote, bytes, "received {}", Shown(packet));
}

/// A packet for a client, other than a push.
#[inline]
pub(crate) fn sent(client: &str, packet: &Packet<'_>) {
    if is_on() {
        tracing::trace!(target: target!(), client, "sent {}", Shown(packet));
    }
}

/// Pushes of one channel for a client.
#[inline]
pub(crate) fn pushed(client: &str, channel: &str, qos: u8, count: u64, bytes: usize) {
    if is_on() && count > 0 {
        tracing::trace!(target: target!(), client, channel, qos, count, bytes, "sent push");
    }
}

/// A packet without its data.
struct Shown<'a>(&'a Packet<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.packet_type().as_str())?;
        match self.0 {
            Packet::Auth(_) | Packet::Hb | Packet::HbAck => Ok(()),
            Packet::AuthAck(ack) => match &ack.outcome {
                AuthOutcome::Granted { client, .. } => write!(f, " st=1 cl={client:?}"),
                // The message comes from the application, and may quote its input.
                AuthOutcome::Refused { status, .. } => write!(f, " st={}", number(*status)),
            },
            Packet::Conn(conn) => {
                write!(f, " cl={:?}", conn.client)?;
                shown_if(f, "wn", conn.window.as_ref())
            }
            Packet::ConnAck(ConnAck { status, timeout_seconds, .. }) => {
                write!(f, " st={}", number(*status))?;
                shown_if(f, "ts", timeout_seconds.as_ref())
            }
            Packet::Sub(sub) => {
                let persistent = u8::from(sub.persistence == Persistence::Persistent);
                write!(f, " cn={:?} pr={persistent}", sub.channel)
            }
            Packet::Unsub(unsub) => write!(f, " cn={:?}", unsub.channel),
            Packet::SubAck(ack) => channel_ack(f, ack.status, ack.channel.as_deref()),
            Packet::UnsubAck(ack) => channel_ack(f, ack.status, ack.channel.as_deref()),
            Packet::Pub(publish) => {
                let (qos, retain) = (qos(publish.qos), u8::from(publish.retain == Retain::Yes));
                write!(f, " cn={:?} q={qos} rt={retain}", publish.channel)?;
                shown_if(f, "id", publish.id.as_ref())?;
                shown_if(f, "dt_bytes", publish.data.map(|data| data.as_str().len()).as_ref())
            }
            Packet::PubAck(ack) => {
                write!(f, " st={}", number(ack.status))?;
                shown_if(f, "id", ack.id.as_ref())?;
                shown_if(f, "dt_bytes", ack.data.map(|data| data.as_str().len()).as_ref())
            }
            Packet::Push(push) => {
                write!(f, " cn={:?} q={}", push.channel, qos(push.qos))?;
                shown_if(f, "id", push.id.as_ref())
            }
            Packet::PushAck(ack) => write!(f, " id={:?}", ack.id),
            Packet::Disconn(disconn) => shown_if(f, "st", disconn.code.as_ref()),
        }
    }
}

fn number(status: StatusCode) -> i32 {
    status.code()
}

fn qos(qos: Qos) -> u8 {
    u8::from(qos == Qos::AtLeastOnce)
}

fn channel_ack(f: &mut fmt::Formatter<'_>, status: StatusCode, channel: Option<&str>) -> fmt::Result {
    write!(f, " st={}", number(status))?;
    shown_if(f, "cn", channel.as_ref())
}

fn shown_if<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, key: &str, value: Option<&T>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {key}={value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_logged_without_their_data() {
        for (packet, shown) in [
            (r#"{"auth":{"dt":{"password":"hunter2"}}}"#, "auth"),
            (r#"{"authAck":{"st":1,"at":"hunter2","cl":"alice"}}"#, "authAck st=1 cl=\"alice\""),
            (r#"{"conn":{"at":"hunter2","cl":"alice","wn":7}}"#, "conn cl=\"alice\" wn=7"),
            (r#"{"connAck":{"st":1,"ts":60}}"#, "connAck st=1 ts=60"),
            (r#"{"sub":{"cn":"a\nb","pr":1}}"#, "sub cn=\"a\\nb\" pr=1"),
            (r#"{"subAck":{"st":3,"cn":"a"}}"#, "subAck st=3 cn=\"a\""),
            (
                r#"{"pub":{"cn":"a","dt":"hunter2","q":1,"id":"7"}}"#,
                "pub cn=\"a\" q=1 rt=0 id=\"7\" dt_bytes=9",
            ),
            (r#"{"pubAck":{"st":1,"id":"7","dt":"hunter2"}}"#, "pubAck st=1 id=\"7\" dt_bytes=9"),
            (r#"{"push":{"cn":"a","dt":"hunter2","cl":"","q":1,"id":"9"}}"#, "push cn=\"a\" q=1 id=\"9\""),
            (r#"{"pushAck":{"id":"9"}}"#, "pushAck id=\"9\""),
            (r#"{"hb":{}}"#, "hb"),
            (r#"{"disconn":{}}"#, "disconn"),
        ] {
            let found = Shown(&jmqt_protocol::decode(packet).unwrap()).to_string();
            assert_eq!(found, shown);
        }
    }
}
