//! Which channels the client is subscribed to, who takes their pushes, and which pushes came before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{ChannelName, Packet, Persistence, StatusCode, Sub, Unsub};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Error;
use crate::inbox::Inbox;
use crate::outbound::Outbound;
use crate::recent::{Recent, Seen};

/// Channels whose recent ids are remembered. More than that only a server brings about that pushes on channels
/// nobody subscribed to.
const MOST_CHANNELS: usize = 16_384;

/// What became of a `sub` or an `unsub`.
pub(crate) type Answer = Result<StatusCode, Error>;

/// One subscription, as the application wants it.
#[derive(Debug)]
struct Route {
    persistence: Persistence,
    /// Its own stream, if it has one.
    inbox: Option<Arc<Inbox>>,
    /// It is wanted also without a stream of its own; its pushes are then for all.
    kept: bool,
    /// The server has acknowledged it, on this connection.
    in_force: bool,
    /// It has been acknowledged before, on any connection.
    known: bool,
    /// What the server was asked and has not answered, oldest first. It answers in order (protocol.md 2.10).
    requests: VecDeque<Request>,
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    /// `None`: nobody waits for it.
    answer: Option<oneshot::Sender<Answer>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sub,
    Unsub,
}

impl Request {
    /// The one who asked may have given up.
    fn is_awaited(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    fn finish(self, answer: Answer) {
        if let Some(waiting) = self.answer {
            // The one who asked may have given up.
            let _ = waiting.send(answer);
        }
    }
}

impl Route {
    const fn new(persistence: Persistence) -> Self {
        Self {
            persistence,
            inbox: None,
            kept: false,
            in_force: false,
            known: false,
            requests: VecDeque::new(),
        }
    }

    /// Whether the application wants it no longer.
    fn is_leaving(&self) -> bool {
        self.requests.back().is_some_and(|request| request.kind == Kind::Unsub)
    }

    /// Asks the server, now or on the next connection.
    fn request(
        &mut self,
        channel: &ChannelName,
        kind: Kind,
        answer: Option<oneshot::Sender<Answer>>,
        out: &mut Outbound,
    ) {
        if out.has_session() {
            self.send(channel, kind, out);
        } else {
            self.forget_superseded();
        }
        self.requests.push_back(Request { kind, answer });
    }

    fn send(&self, channel: &ChannelName, kind: Kind, out: &mut Outbound) {
        let channel = channel.as_str().into();
        match kind {
            Kind::Sub => {
                out.send(&Packet::Sub(Sub { channel, persistence: self.persistence, is_filter: false }))
            }
            Kind::Unsub => out.send(&Packet::Unsub(Unsub { channel, is_filter: false })),
        }
    }

    /// What was asked away from the server and is awaited by nobody need not be said, but for one `unsub`: only with it
    /// a subscription changes its persistence.
    fn forget_superseded(&mut self) {
        let mut has_unsub = false;
        self.requests.retain(|request| {
            let is_first_unsub = request.kind == Kind::Unsub && !std::mem::replace(&mut has_unsub, true);
            is_first_unsub || request.is_awaited()
        });
    }

    /// The connection has ended, and what was asked on it is asked again.
    fn end_connection(&mut self) {
        let last = self.requests.back().map(|request| request.kind);
        self.forget_superseded();
        // The last word counts.
        if let Some(kind) = last
            && self.requests.back().is_none_or(|request| request.kind != kind)
        {
            self.requests.push_back(Request { kind, answer: None });
        }
    }

    /// The oldest request of this kind, which has been answered.
    fn take(&mut self, kind: Kind) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.kind == kind)?;
        self.requests.remove(at)
    }
}

/// Who takes the pushes of a channel.
pub(crate) enum Taker<'r> {
    /// Its own stream.
    Stream(&'r Arc<Inbox>),
    /// [`Pushes`](crate::Pushes).
    Everyone,
    /// Nobody: its stream was dropped, and the server has yet to acknowledge the end.
    Nobody,
}

/// What the end of a stream did to its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The subscription ends too.
    Unsubscribed,
    /// The subscription stays, and its pushes are for all.
    Kept,
    /// The channel has another stream by now, or none.
    Nothing,
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
    /// Wants a subscription; the answer comes with the `subAck`.
    ///
    /// # Errors
    /// [`Error::AlreadySubscribed`] if it has the other persistence: the server would not change it (2.20).
    pub(crate) fn subscribe(
        &mut self,
        channel: &ChannelName,
        persistence: Persistence,
        inbox: Option<Arc<Inbox>>,
        out: &mut Outbound,
    ) -> Result<oneshot::Receiver<Answer>, Error> {
        let route = self.routes.entry(channel.clone()).or_insert_with(|| Route::new(persistence));
        let begins_again = route.is_leaving();
        if !begins_again && route.persistence != persistence {
            return Err(Error::AlreadySubscribed { is: route.persistence });
        }
        route.persistence = persistence;
        if begins_again {
            route.kept = false;
        }
        if begins_again || inbox.is_some() {
            // A stream that was there before ends: two cannot both have every push.
            if let Some(old) = route.inbox.take() {
                old.end();
            }
        }
        match inbox {
            Some(inbox) => route.inbox = Some(inbox),
            None => route.kept = true,
        }
        let (answer, answered) = oneshot::channel();
        route.request(channel, Kind::Sub, Some(answer), out);
        Ok(answered)
    }

    /// Wants a subscription no longer; the answer comes with the `unsubAck`.
    pub(crate) fn unsubscribe(
        &mut self,
        channel: &ChannelName,
        out: &mut Outbound,
    ) -> oneshot::Receiver<Answer> {
        // One we know nothing of may be persistent, from an earlier life of this client.
        let route = self
            .routes
            .entry(channel.clone())
            .or_insert_with(|| Route { kept: true, ..Route::new(Persistence::Temporary) });
        let (answer, answered) = oneshot::channel();
        route.request(channel, Kind::Unsub, Some(answer), out);
        answered
    }

    /// The stream of this channel is dropped: a temporary subscription ends with it; a persistent one stays, because it
    /// outlives even the process, and so does one that is wanted without a stream.
    pub(crate) fn leave(
        &mut self,
        channel: &ChannelName,
        inbox: &Arc<Inbox>,
        keep: bool,
        out: &mut Outbound,
    ) -> Left {
        let Some(route) = self.routes.get_mut(channel) else { return Left::Nothing };
        if !route.inbox.as_ref().is_some_and(|own| Arc::ptr_eq(own, inbox)) {
            return Left::Nothing;
        }
        route.inbox = None;
        if route.is_leaving() {
            return Left::Unsubscribed;
        }
        route.kept |= keep || route.persistence == Persistence::Persistent;
        if route.kept {
            return Left::Kept;
        }
        route.request(channel, Kind::Unsub, None, out);
        Left::Unsubscribed
    }

    /// Wants nothing more: temporary subscriptions end, persistent ones stay with the server. Hands back the answers that
    /// are due, and the streams, which end when they have been read.
    pub(crate) fn drain(&mut self, out: &mut Outbound) -> (Vec<oneshot::Receiver<Answer>>, Vec<Arc<Inbox>>) {
        let (mut answers, mut inboxes) = (Vec::new(), Vec::new());
        for (channel, route) in &mut self.routes {
            inboxes.extend(route.inbox.clone());
            if route.persistence == Persistence::Persistent {
                // What comes from now on is not acknowledged, and comes again in another life.
                route.kept = false;
                if let Some(inbox) = route.inbox.take() {
                    inbox.end();
                }
            } else if !route.is_leaving() {
                let (answer, answered) = oneshot::channel();
                route.request(channel, Kind::Unsub, Some(answer), out);
                answers.push(answered);
            }
        }
        (answers, inboxes)
    }

    /// Makes every subscription again on a new connection.
    pub(crate) fn resume(&mut self, out: &mut Outbound) {
        for (channel, route) in &mut self.routes {
            route.in_force = false;
            if let Some(inbox) = &route.inbox {
                inbox.begin_connection();
            }
            if route.requests.is_empty() {
                route.requests.push_back(Request { kind: Kind::Sub, answer: None });
            }
            for request in &route.requests {
                route.send(channel, request.kind, out);
            }
        }
    }

    /// The connection has ended: what nobody waits for is not asked again.
    pub(crate) fn end_connection(&mut self) {
        for route in self.routes.values_mut() {
            route.end_connection();
        }
    }

    /// Whether every subscription has been answered on this connection.
    pub(crate) fn is_resumed(&self) -> bool {
        !self.awaits_answer()
    }

    /// Whether an answer is due.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.routes.values().any(|route| !route.requests.is_empty())
    }

    pub(crate) fn sub_answered(&mut self, channel: &str, status: StatusCode) -> Change {
        let Some(route) = self.routes.get_mut(channel) else { return Change::None };
        if let Some(request) = route.take(Kind::Sub) {
            request.finish(Ok(status));
        }
        if status.is_ok() {
            (route.known, route.in_force) = (true, true);
            return Change::None;
        }
        // Refused while it is in force: it stays as it was (protocol.md 2.20).
        if route.in_force || !route.requests.is_empty() {
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
        if let Some(request) = route.take(Kind::Unsub) {
            request.finish(Ok(status));
        }
        if status.is_ok() {
            (route.known, route.in_force) = (false, false);
        } else if route.known {
            // It stays, and somebody may read it.
            route.kept |= route.inbox.is_none();
            return;
        }
        if route.requests.is_empty() {
            self.remove(channel);
            self.recent.remove(channel);
        }
    }

    fn remove(&mut self, channel: &str) -> Option<ChannelName> {
        let (name, route) = self.routes.remove_entry(channel)?;
        if let Some(inbox) = route.inbox {
            inbox.end();
        }
        Some(name)
    }

    /// Who takes the pushes of this channel.
    pub(crate) fn taker(&self, channel: &str) -> Taker<'_> {
        match self.routes.get(channel) {
            Some(Route { inbox: Some(inbox), .. }) => Taker::Stream(inbox),
            Some(Route { kept: false, .. }) => Taker::Nobody,
            _ => Taker::Everyone,
        }
    }

    /// All waiting requests get this error. Subscriptions that were not acknowledged before are given up.
    pub(crate) fn fail_requests(&mut self, error: &Error) {
        let mut given_up = Vec::new();
        for (channel, route) in &mut self.routes {
            let is_leaving = route.is_leaving();
            for request in &mut route.requests {
                if let Some(answer) = request.answer.take() {
                    let _ = answer.send(Err(error.clone()));
                }
            }
            if !is_leaving && !route.known {
                given_up.push(channel.clone());
            }
        }
        for channel in given_up {
            self.remove(channel.as_str());
        }
    }

    /// The streams there are.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &Inbox> {
        self.routes.values().filter_map(|route| route.inbox.as_deref())
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

    /// Channels of which the application has held `most` pushes or more for `limit` without acknowledging any.
    pub(crate) fn stalled(&mut self, most: usize, limit: Duration) -> Vec<(Box<str>, usize)> {
        let now = Instant::now();
        let held = self.recent.iter_mut().filter_map(|(channel, recent)| {
            recent.look(most, limit, now).map(|held| (channel.clone(), held))
        });
        held.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn online() -> Outbound {
        let mut out = Outbound::new();
        out.begin();
        out
    }

    fn sent(out: &mut Outbound) -> String {
        let mut bytes = Vec::new();
        out.take(&mut bytes);
        String::from_utf8(bytes).unwrap().replace('\0', " ")
    }

    #[test] // §9.c: the flag changes by an unsub in between
    fn unsub_and_subscribe_at_once_change_the_persistence_also_over_a_reconnect() {
        let (mut routes, mut out, news) = (Routes::default(), online(), parsed("news"));
        let mut first = routes.subscribe(&news, Persistence::Temporary, None, &mut out).unwrap();
        routes.sub_answered("news", StatusCode::OK);
        assert!(first.try_recv().unwrap().unwrap().is_ok());
        let refused = routes.subscribe(&news, Persistence::Persistent, None, &mut out).unwrap_err();
        assert!(refused.to_string().contains("already subscribed to the channel as temporary"), "{refused}");
        let _ = sent(&mut out);

        let mut unsub = routes.unsubscribe(&news, &mut out);
        let mut again = routes.subscribe(&news, Persistence::Persistent, None, &mut out).unwrap();
        assert_eq!(sent(&mut out), r#"{"unsub":{"cn":"news"}} {"sub":{"cn":"news","pr":1}} "#);
        // The connection breaks before either is answered.
        out.end();
        routes.end_connection();
        out.begin();
        routes.resume(&mut out);
        assert_eq!(sent(&mut out), r#"{"unsub":{"cn":"news"}} {"sub":{"cn":"news","pr":1}} "#);
        routes.unsub_answered("news", StatusCode::OK);
        assert!(unsub.try_recv().unwrap().unwrap().is_ok());
        assert!(again.try_recv().is_err() && !routes.is_resumed());
        routes.sub_answered("news", StatusCode::OK);
        assert!(again.try_recv().unwrap().unwrap().is_ok());
        assert!(routes.is_resumed() && matches!(routes.taker("news"), Taker::Everyone));
    }

    #[test]
    fn each_request_has_its_own_answer() {
        let (mut routes, mut out, news) = (Routes::default(), online(), parsed("news"));
        let mut first = routes.subscribe(&news, Persistence::Temporary, None, &mut out).unwrap();
        let mut second = routes.subscribe(&news, Persistence::Temporary, None, &mut out).unwrap();
        routes.sub_answered("news", StatusCode::OK);
        assert!(first.try_recv().unwrap().unwrap().is_ok() && second.try_recv().is_err());
        routes.sub_answered("news", StatusCode::NOT_ALLOWED);
        assert_eq!(second.try_recv().unwrap().unwrap(), StatusCode::NOT_ALLOWED);
        assert!(matches!(routes.taker("news"), Taker::Everyone)); // protocol.md 2.20: it stays as it was
    }

    #[test]
    fn requests_without_a_connection_do_not_pile_up() {
        let (mut routes, mut out, news) = (Routes::default(), Outbound::new(), parsed("news"));
        for _ in 0..1000 {
            let inbox = Arc::new(Inbox::new(1024));
            drop(routes.subscribe(&news, Persistence::Temporary, Some(Arc::clone(&inbox)), &mut out));
            assert_eq!(routes.leave(&news, &inbox, false, &mut out), Left::Unsubscribed);
        }
        assert!(routes.routes[&news].requests.len() <= 2, "{:?}", routes.routes[&news].requests);
        out.begin();
        routes.resume(&mut out);
        assert!(sent(&mut out).ends_with(r#"{"unsub":{"cn":"news"}} "#));
    }
}
