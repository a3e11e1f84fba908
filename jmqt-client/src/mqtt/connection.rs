//! One session on one connection, from CONNACK to its end: the only code that touches its socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jmqt_mqtt::{Ack, Disconnect, FrameDecoder, Packet, Properties, ReasonCode, Sender};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::authentication::{Authentication, Came, Reauthentication};
use super::connect::Session;
use super::event::Event;
use super::routes::refused;
use super::shared::{Shared, Status};
use super::{DisconnectReason, Error, Information, Message};
use crate::heartbeat::{Due, Heartbeat};
use crate::transport::{Link, Turn};

/// How long the end of a connection may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// How often the clock is looked at, if there is no keep alive.
const LOOK_EVERY: Duration = Duration::from_secs(5);

struct Connection {
    link: Link,
    frames: FrameDecoder,
    shared: Arc<Shared>,
    information: Information,
    /// One and a half times the keep alive.
    silence: Duration,
    heartbeat: Heartbeat,
    aliases: HashMap<u16, Arc<str>>,
    reauthentication: Option<Box<Reauthentication>>,
    resume_by: Option<Instant>,
    leave_by: Option<Instant>,
    is_leaving: bool,
}

/// Serves the session until one side ends it, and says why.
pub(crate) async fn serve(session: Session, shared: &Arc<Shared>) -> DisconnectReason {
    let Session { link, frames, information, read: (read, at), rest } = session;
    let keep_alive = Duration::from_secs(information.keep_alive.into());
    let silence = if keep_alive.is_zero() { Duration::from_secs(1 << 31) } else { keep_alive * 3 / 2 };
    shared.begin(&information);
    let mut connection = Connection {
        link,
        frames,
        shared: Arc::clone(shared),
        information,
        silence,
        heartbeat: Heartbeat::new(silence),
        aliases: HashMap::new(),
        reauthentication: None,
        resume_by: Some(Instant::now() + shared.options.request_timeout),
        leave_by: None,
        is_leaving: false,
    };
    let first = connection.packets(&rest).and_then(|()| connection.receive(&read, at));
    let reason = match first {
        Ok(()) => connection.talk().await,
        Err(reason) => reason,
    };
    connection.say_goodbye(&reason).await;
    if connection.is_leaving { DisconnectReason::ByClient } else { reason }
}

impl Connection {
    async fn talk(&mut self) -> DisconnectReason {
        let mut tick = interval(self.heartbeat.interval().min(LOOK_EVERY));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        loop {
            self.finish_resuming();
            self.fill();
            let holds = shared.holds();
            let leave_by = self.leave_by;
            let turn = tokio::select! {
                biased; // the socket first: incoming bytes must be read even if there is much to send
                turn = self.link.turn_if(!holds) => turn,
                () = shared.wake.notified() => continue,
                () = shared.reconnect.notified() => {
                    self.heartbeat.probe();
                    self.ping();
                    continue;
                }
                data = next_step(&mut self.reauthentication) => {
                    if let Err(reason) = self.go_on_authenticating(data) {
                        return reason;
                    }
                    continue;
                }
                _ = tick.tick() => {
                    if let Err(reason) = self.look_at_clock(holds) {
                        return reason;
                    }
                    continue;
                }
                () = sleep_until(leave_by.unwrap_or_else(Instant::now)), if leave_by.is_some() => {
                    self.is_leaving = true;
                    return DisconnectReason::ByClient;
                }
            };
            match turn {
                Ok(Turn::Read(read)) => {
                    self.heartbeat.heard();
                    if let Err(reason) = self.receive(&read, 0) {
                        return reason;
                    }
                    self.shared.tell_of_room();
                }
                Ok(Turn::Written) => {
                    if self.is_leaving && self.link.is_written() {
                        return DisconnectReason::ByClient;
                    }
                }
                Ok(Turn::End) => return DisconnectReason::Closed,
                Err(error) => return DisconnectReason::Broken(Arc::new(error)),
            }
            if shared.lock().outbound.is_stuck() {
                return DisconnectReason::Protocol("it does not read what we answer".to_owned());
            }
        }
    }

    /// Once all subscriptions are answered, publishes flow.
    fn finish_resuming(&mut self) {
        if self.resume_by.is_none() || !self.shared.lock().routes.is_resumed() {
            return;
        }
        self.resume_by = None;
        self.shared.lock().outbound.go_online();
        self.shared.tell_of_room();
        self.shared.emit(Event::Connected { information: self.information.clone() });
        self.shared.status.send_replace(Status::Online);
    }

    /// Gives the socket what there is to send, if it is ready for more.
    fn fill(&mut self) {
        let mut inner = self.shared.lock();
        if inner.outbound.is_closing() && self.leave_by.is_none() {
            self.leave_by = Some(Instant::now() + self.shared.options.close_timeout);
        }
        if self.reauthentication.is_none()
            && self.resume_by.is_none()
            && let (Some(authentication), false) =
                (&self.shared.options.authentication, inner.reauthenticate.is_empty())
        {
            let by = Instant::now() + self.shared.options.request_timeout;
            let waiting = std::mem::take(&mut inner.reauthenticate);
            self.reauthentication = Some(Box::new(Reauthentication::begin(authentication, by, waiting)));
        }
        if !self.link.is_written() || self.is_leaving {
            return;
        }
        inner.outbound.take(self.link.portion());
        if inner.outbound.is_closing() && inner.outbound.is_acknowledged() && inner.outbound.is_handed_over()
        {
            self.is_leaving = true;
            let goodbye =
                Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY });
            // Without properties it can always be written.
            let _ = goodbye.encode(self.information.version, self.link.portion());
        }
        drop(inner);
        if self.link.send() > 0 {
            self.heartbeat.sent();
            self.shared.tell_of_room();
        }
        let answers = self.link.take_answers();
        self.link.send_framed(&answers);
    }

    /// The application has answered in an authentication exchange.
    fn go_on_authenticating(&mut self, step: Answered) -> Result<(), DisconnectReason> {
        let shared = Arc::clone(&self.shared);
        if let (Some(authentication), Some(running)) =
            (&shared.options.authentication, &mut self.reauthentication)
        {
            let mut packet = Vec::new();
            if !running
                .answered(authentication, step, &mut packet)
                .map_err(DisconnectReason::Authentication)?
            {
                self.reauthentication = None;
            }
            shared.lock().outbound.send_encoded(&packet);
        }
        Ok(())
    }

    fn ping(&self) {
        // It has no fields that could be wrong.
        let _ = self.shared.lock().outbound.send(&Packet::PingReq);
    }

    fn look_at_clock(&mut self, holds: bool) -> Result<(), DisconnectReason> {
        self.shared.look_at_clock();
        if self.resume_by.is_some_and(|by| by <= Instant::now()) {
            return Err(DisconnectReason::NotResumed(self.shared.options.request_timeout));
        }
        if self.reauthentication.as_ref().is_some_and(|running| running.by <= Instant::now()) {
            let limit = self.shared.options.request_timeout;
            let error = Error::Timeout { what: "the authentication within the session", limit };
            return Err(DisconnectReason::Authentication(Arc::new(error)));
        }
        if self.information.keep_alive == 0 {
            return Ok(());
        }
        // What is not read is not heard.
        if holds {
            self.heartbeat.heard();
        }
        let due =
            self.heartbeat.look(self.silence, holds, SystemTime::now()).map_err(DisconnectReason::Silent)?;
        if due == Due::Beat {
            self.ping();
        }
        Ok(())
    }

    /// Ends the WebSocket, TLS and the socket in order, as far as the other side still takes it.
    async fn say_goodbye(&mut self, reason: &DisconnectReason) {
        if self.link.is_written() {
            let reason = match reason {
                DisconnectReason::Protocol(_) => Some(ReasonCode::PROTOCOL_ERROR),
                DisconnectReason::Authentication(_) => Some(ReasonCode::UNSPECIFIED_ERROR), // [MQTT-4.12.1-2]
                _ => None,
            };
            if let (Some(reason), true) = (reason, self.information.version.has_properties()) {
                let packet = Disconnect { reason, properties: Properties::EMPTY };
                // As above.
                let _ = Packet::Disconnect(packet).encode(self.information.version, self.link.portion());
                self.link.send();
            }
            let frame = self.link.close_frame();
            self.link.send_framed(&frame);
        }
        // A dead peer takes nothing, and is not waited for.
        let _ = timeout(LAST_WORDS, self.link.finish()).await;
    }

    fn receive(&mut self, read: &Bytes, mut at: usize) -> Result<(), DisconnectReason> {
        loop {
            let chunk = match self.link.next(read, &mut at) {
                Ok(Some(incoming)) => incoming.to_bytes(),
                Ok(None) => return Ok(()),
                Err(crate::transport::BadStream::Closed(_)) => return Err(DisconnectReason::Closed),
                Err(error) => return Err(DisconnectReason::Protocol(error.to_string())),
            };
            self.packets(&chunk)?;
        }
    }

    /// Handles every packet in a piece of the stream.
    fn packets(&mut self, bytes: &Bytes) -> Result<(), DisconnectReason> {
        let mut chunk = &bytes[..];
        let version = self.information.version;
        loop {
            let whole = if self.frames.is_mid_packet() { None } else { Some(bytes) };
            let broken = |error: jmqt_mqtt::DecodeError| DisconnectReason::Protocol(error.to_string());
            let Some(frame) = self.frames.next(&mut chunk, Some(version)).map_err(broken)? else {
                return Ok(());
            };
            let packet = Packet::decode(&frame, version, Sender::Server).map_err(broken)?;
            if let Packet::Auth(auth) = packet {
                let is_over = authenticate(
                    self.shared.options.authentication.as_ref(),
                    self.reauthentication.as_deref_mut(),
                    &auth,
                )?;
                if is_over {
                    self.reauthentication = None;
                    self.shared.wake.notify_one();
                }
                continue;
            }
            handle(&self.shared, &mut self.aliases, &packet, whole)?;
        }
    }
}

type Answered = <super::authentication::Step as Future>::Output;

/// What the application answers next in an authentication exchange, if one waits for it.
async fn next_step(running: &mut Option<Box<Reauthentication>>) -> Answered {
    match running.as_mut().and_then(|running| running.step.as_mut()) {
        Some(step) => step.await,
        None => std::future::pending().await,
    }
}

/// AUTH came. `Ok(true)`: the exchange is over.
fn authenticate(
    authentication: Option<&Authentication>,
    running: Option<&mut Reauthentication>,
    auth: &jmqt_mqtt::Auth<'_>,
) -> Result<bool, DisconnectReason> {
    let (Some(authentication), Some(running)) = (authentication, running) else {
        return Err(DisconnectReason::Protocol("AUTH has no place here".to_owned()));
    };
    let data = match (auth.reason, auth.properties.authentication_method()) {
        (ReasonCode::SUCCESS, None) => &[], // The short form (3.15.2.1).
        _ => authentication.data(auth.properties).map_err(DisconnectReason::Protocol)?,
    };
    running.came(auth.reason, data).map_err(|came| match came {
        Came::Protocol(problem) => DisconnectReason::Protocol(problem.to_owned()),
        Came::Refused(error) => DisconnectReason::Authentication(error),
    })
}

fn handle(
    shared: &Shared,
    aliases: &mut HashMap<u16, Arc<str>>,
    packet: &Packet<'_>,
    whole: Option<&Bytes>,
) -> Result<(), DisconnectReason> {
    match packet {
        Packet::Publish(publish) => {
            let topic = topic(publish, aliases, shared.options.topic_alias_maximum)?;
            let message = Message::new(Arc::clone(&topic), publish, whole);
            shared.deliver(&message, &jmqt_mqtt::Publish { topic: &topic, ..*publish });
        }
        Packet::PubAck(ack) => {
            shared.lock().outbound.acknowledged(ack.id, outcome(ack));
        }
        Packet::PubRec(ack) => {
            shared.lock().outbound.received(ack.id, outcome(ack));
        }
        Packet::PubRel(ack) => {
            let mut inner = shared.lock();
            let is_known = inner.received.released(ack.id);
            let reason = if is_known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
            inner.outbound.send_ack(Packet::PubComp, ack.id, reason); // [MQTT-4.3.3-11]
        }
        Packet::PubComp(ack) => {
            shared.lock().outbound.completed(ack.id);
        }
        Packet::SubAck(ack) => {
            let mut inner = shared.lock();
            let inner = &mut *inner;
            if let Some((filter, error)) = inner.routes.sub_answered(ack, &mut inner.outbound) {
                tracing::warn!(filter, %error, "Cannot subscribe again");
                shared.emit(Event::SubscriptionLost { filter, error });
            }
        }
        Packet::UnsubAck(ack) => {
            let mut inner = shared.lock();
            let inner = &mut *inner;
            inner.routes.unsub_answered(ack, &mut inner.outbound);
        }
        Packet::PingResp => {}
        Packet::Disconnect(disconnect) => {
            let message = disconnect.properties.reason_string().unwrap_or_default().to_owned();
            return Err(DisconnectReason::ByServer { reason: disconnect.reason, message });
        }
        other => {
            let kind = other.packet_type().name();
            return Err(DisconnectReason::Protocol(format!("{kind} has no place here")));
        }
    }
    Ok(())
}

fn outcome(ack: &Ack<'_>) -> Result<ReasonCode, Error> {
    if ack.reason.is_error() { Err(refused("publish", ack.reason, ack.properties)) } else { Ok(ack.reason) }
}

/// The topic, or what its alias stands for (3.3.2.3.4).
fn topic(
    publish: &jmqt_mqtt::Publish<'_>,
    aliases: &mut HashMap<u16, Arc<str>>,
    most: u16,
) -> Result<Arc<str>, DisconnectReason> {
    let Some(alias) = publish.properties.topic_alias() else { return Ok(publish.topic.into()) };
    let wrong = || {
        DisconnectReason::Protocol(format!("topic alias {alias} is unknown, or above our maximum of {most}"))
    };
    if alias > most {
        return Err(wrong()); // [MQTT-3.1.2-26]
    }
    if publish.topic.is_empty() {
        return aliases.get(&alias).cloned().ok_or_else(wrong);
    }
    let topic: Arc<str> = publish.topic.into();
    aliases.insert(alias, Arc::clone(&topic));
    Ok(topic)
}
