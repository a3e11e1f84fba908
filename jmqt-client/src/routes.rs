//! Which channels the client is subscribed to, who takes their pushes, and which pushes came before.

use std::collections::HashMap;
use std::sync::Arc;

use jmqt_protocol::{ChannelName, Packet, Persistence, StatusCode, Sub, Unsub};
use tokio::sync::oneshot;

use crate::inbox::Inbox;
use crate::outbound::Outbound;
use crate::recent::{Recent, Seen};

/// Channels whose recent ids are remembered. More than that only a server brings about that pushes on channels
/// nobody subscribed to.
const MOST_CHANNELS: usize = 16_384;

type Answer = oneshot::Sender<StatusCode>;

/// One subscription, as the application wants it.
#[derive(Debug)]
struct Route {
    persistence: Persistence,
    /// Its own stream, if it has one.
    inbox: Option<Arc<Inbox>>,
    /// The server has acknowledged it, on this connection.
    confirmed: bool,
    /// It has been acknowledged before, on any connection.
    known: bool,
    leaving: bool,
    subs: Vec<Answer>,
    unsubs: Vec<Answer>,
}

/// What a `subAck` or `unsubAck` changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// A subscription that had been made before was refused.
    Lost(ChannelName),
}

#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: HashMap<ChannelName, Route>,
    recent: HashMap<Box<str>, Recent>,
}

impl Routes {
    /// Wants a subscription; the answer comes with the next `subAck` for the channel.
    pub(crate) fn subscribe(
        &mut self,
        channel: &ChannelName,
        persistence: Persistence,
        inbox: Option<Arc<Inbox>>,
        out: &mut Outbound,
    ) -> oneshot::Receiver<StatusCode> {
        let (answer, answered) = oneshot::channel();
        let route = self.routes.entry(channel.clone()).or_insert_with(|| Route {
            persistence,
            inbox: None,
            confirmed: false,
            known: false,
            leaving: false,
            subs: Vec::new(),
            unsubs: Vec::new(),
        });
        if inbox.is_some() {
            // A stream that was there before ends: two cannot both have every push.
            if let Some(old) = std::mem::replace(&mut route.inbox, inbox) {
                old.end();
            }
        }
        route.leaving = false;
        route.subs.push(answer);
        if out.has_session() {
            send_sub(channel, route.persistence, out);
        }
        answered
    }

    /// Wants a subscription no longer; the answer comes with the next `unsubAck` for the channel.
    pub(crate) fn unsubscribe(
        &mut self,
        channel: &ChannelName,
        out: &mut Outbound,
    ) -> oneshot::Receiver<StatusCode> {
        let (answer, answered) = oneshot::channel();
        // One we know nothing of may be persistent, from an earlier life of this client.
        let route = self.routes.entry(channel.clone()).or_insert_with(|| Route {
            persistence: Persistence::Temporary,
            inbox: None,
            confirmed: false,
            known: false,
            leaving: true,
            subs: Vec::new(),
            unsubs: Vec::new(),
        });
        route.leaving = true;
        route.unsubs.push(answer);
        if out.has_session() {
            out.send(&Packet::Unsub(Unsub { channel: channel.as_str().into() }));
        }
        answered
    }

    /// Makes every subscription again on a new connection.
    pub(crate) fn resume(&mut self, out: &mut Outbound) {
        for (channel, route) in &mut self.routes {
            route.confirmed = false;
            if let Some(inbox) = &route.inbox {
                inbox.begin_connection();
            }
            if route.leaving {
                out.send(&Packet::Unsub(Unsub { channel: channel.as_str().into() }));
            } else {
                send_sub(channel, route.persistence, out);
            }
        }
    }

    /// Whether every subscription has been answered on this connection.
    pub(crate) fn is_resumed(&self) -> bool {
        self.routes.values().all(|route| route.confirmed)
    }

    /// Whether an answer is due.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.routes.values().any(|route| !(route.subs.is_empty() && route.unsubs.is_empty()))
    }

    pub(crate) fn sub_answered(&mut self, channel: &str, status: StatusCode) -> Change {
        let Some(route) = self.routes.get_mut(channel) else { return Change::None };
        let was_confirmed = std::mem::replace(&mut route.confirmed, true);
        tell(&mut route.subs, status);
        if status.is_ok() {
            route.known = true;
            return Change::None;
        }
        // Refused while it stands: it stays as it was (protocol.md 2.20).
        if was_confirmed && route.known {
            return Change::None;
        }
        let known = route.known;
        match self.remove(channel) {
            Some(name) if known => Change::Lost(name),
            _ => Change::None,
        }
    }

    pub(crate) fn unsub_answered(&mut self, channel: &str, status: StatusCode) {
        let Some(route) = self.routes.get_mut(channel) else { return };
        tell(&mut route.unsubs, status);
        route.confirmed = true;
        if !route.leaving {
            return; // subscribed again in the meantime
        }
        if status.is_ok() || !route.known {
            self.remove(channel);
        } else {
            route.leaving = false;
        }
    }

    fn remove(&mut self, channel: &str) -> Option<ChannelName> {
        let (name, route) = self.routes.remove_entry(channel)?;
        if let Some(inbox) = route.inbox {
            inbox.end();
        }
        Some(name)
    }

    /// The stream of this channel, if it has one of its own.
    pub(crate) fn inbox(&self, channel: &str) -> Option<&Arc<Inbox>> {
        self.routes.get(channel)?.inbox.as_ref()
    }

    /// Takes the stream away from a channel, if it is still this one.
    pub(crate) fn leave(&mut self, channel: &str, inbox: &Arc<Inbox>) {
        if let Some(route) = self.routes.get_mut(channel)
            && route.inbox.as_ref().is_some_and(|own| Arc::ptr_eq(own, inbox))
        {
            route.inbox = None;
        }
    }

    /// The client has ended.
    pub(crate) fn close(&mut self) {
        for (_, route) in self.routes.drain() {
            if let Some(inbox) = route.inbox {
                inbox.end();
            }
        }
        self.recent.clear();
    }

    // ---- redeliveries ------------------------------------------------------------------------------

    /// Notes a QoS 1 push, and says whether it came before.
    pub(crate) fn see(&mut self, channel: &str, id: &str) -> Seen {
        if let Some(recent) = self.recent.get_mut(channel) {
            return recent.see(id);
        }
        if self.recent.len() >= MOST_CHANNELS
            && let Some(any) = self.recent.keys().next().cloned()
        {
            self.recent.remove(&any);
        }
        self.recent.entry(channel.into()).or_default().see(id)
    }

    /// Notes that a push has been acknowledged; `false` if it was before.
    pub(crate) fn acknowledge(&mut self, channel: &str, id: &str) -> bool {
        self.recent.get_mut(channel).is_none_or(|recent| recent.acknowledge(id))
    }

    /// The push may come again, and is then new.
    pub(crate) fn forget(&mut self, channel: &str, id: &str) {
        if let Some(recent) = self.recent.get_mut(channel) {
            recent.forget(id);
        }
    }
}

fn send_sub(channel: &ChannelName, persistence: Persistence, out: &mut Outbound) {
    out.send(&Packet::Sub(Sub { channel: channel.as_str().into(), persistence }));
}

fn tell(answers: &mut Vec<Answer>, status: StatusCode) {
    for answer in answers.drain(..) {
        // The one who asked may have given up.
        let _ = answer.send(status);
    }
}
