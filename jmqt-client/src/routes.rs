//! Which channels the client is subscribed to, who takes their pushes, and which pushes came before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{ChannelName, Packet, Persistence, StatusCode, Sub, Unsub};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::inbox::Inbox;
use crate::outbound::Outbound;
use crate::recent::{Recent, Seen};
use crate::{ChannelFilter, Error};

/// Channels whose recent ids are remembered. More than that only a server brings about that pushes on channels
/// nobody subscribed to.
const MOST_CHANNELS: usize = 16_384;

/// What became of a `sub` or an `unsub`.
pub(crate) type Answer = Result<StatusCode, Error>;

/// What a subscription is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Channel(ChannelName),
    Filter(ChannelFilter),
}

impl Target {
    fn as_str(&self) -> &str {
        match self {
            Self::Channel(channel) => channel.as_str(),
            Self::Filter(filter) => filter.as_str(),
        }
    }

    pub(crate) fn includes(&self, channel: &str) -> bool {
        match self {
            Self::Channel(own) => own.as_str() == channel,
            Self::Filter(filter) => filter.matches(channel),
        }
    }
}

/// One subscription, as the application wants it.
#[derive(Debug)]
struct Route {
    target: Target,
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
    const fn new(target: Target, persistence: Persistence) -> Self {
        Self {
            target,
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
    fn request(&mut self, kind: Kind, answer: Option<oneshot::Sender<Answer>>, out: &mut Outbound) {
        if out.has_session() {
            self.send(kind, out);
        } else {
            self.forget_superseded();
        }
        self.requests.push_back(Request { kind, answer });
    }

    fn send(&self, kind: Kind, out: &mut Outbound) {
        let (channel, is_filter) = (self.target.as_str().into(), matches!(self.target, Target::Filter(_)));
        match kind {
            Kind::Sub => {
                out.send(&Packet::Sub(Sub { channel, persistence: self.persistence, is_filter }));
            }
            Kind::Unsub => out.send(&Packet::Unsub(Unsub { channel, is_filter })),
        }
    }

    fn awaits(&self, kind: Kind) -> bool {
        self.requests.iter().any(|request| request.kind == kind)
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
#[derive(Debug)]
pub(crate) enum Change {
    None,
    /// A subscription that had been made before was refused.
    Lost(ChannelName, StatusCode),
    /// The same, of a filter.
    FilterLost(ChannelFilter, Error),
}

#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: HashMap<ChannelName, Route>,
    filters: HashMap<ChannelFilter, Route>,
    recent: HashMap<Box<str>, Recent>,
}

impl Routes {
    fn all(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().chain(self.filters.values())
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Route> {
        self.routes.values_mut().chain(self.filters.values_mut())
    }

    fn get_mut(&mut self, target: &Target) -> Option<&mut Route> {
        match target {
            Target::Channel(channel) => self.routes.get_mut(channel),
            Target::Filter(filter) => self.filters.get_mut(filter),
        }
    }

    fn get_or_insert(&mut self, target: &Target, route: impl FnOnce(Target) -> Route) -> &mut Route {
        let new = || route(target.clone());
        match target {
            Target::Channel(channel) => self.routes.entry(channel.clone()).or_insert_with(new),
            Target::Filter(filter) => self.filters.entry(filter.clone()).or_insert_with(new),
        }
    }

    /// Wants a subscription; the answer comes with the `subAck`.
    ///
    /// # Errors
    /// [`Error::AlreadySubscribed`] if it has the other persistence: the server would not change it (2.20).
    pub(crate) fn subscribe(
        &mut self,
        target: &Target,
        persistence: Persistence,
        inbox: Option<Arc<Inbox>>,
        out: &mut Outbound,
    ) -> Result<oneshot::Receiver<Answer>, Error> {
        let route = self.get_or_insert(target, |target| Route::new(target, persistence));
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
        route.request(Kind::Sub, Some(answer), out);
        Ok(answered)
    }

    /// Wants a subscription no longer; the answer comes with the `unsubAck`.
    pub(crate) fn unsubscribe(&mut self, target: &Target, out: &mut Outbound) -> oneshot::Receiver<Answer> {
        // One we know nothing of may be persistent, from an earlier life of this client.
        let route = self.get_or_insert(target, |target| Route {
            kept: true,
            ..Route::new(target, Persistence::Temporary)
        });
        let (answer, answered) = oneshot::channel();
        route.request(Kind::Unsub, Some(answer), out);
        answered
    }

    /// The stream of this channel is dropped: a temporary subscription ends with it; a persistent one stays, because it
    /// outlives even the process, and so does one that is wanted without a stream.
    pub(crate) fn leave(
        &mut self,
        target: &Target,
        inbox: &Arc<Inbox>,
        keep: bool,
        out: &mut Outbound,
    ) -> Left {
        let Some(route) = self.get_mut(target) else { return Left::Nothing };
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
        route.request(Kind::Unsub, None, out);
        Left::Unsubscribed
    }

    /// Wants nothing more: temporary subscriptions end, persistent ones stay with the server. Hands back the answers that
    /// are due, and the streams, which end when they have been read.
    pub(crate) fn drain(&mut self, out: &mut Outbound) -> (Vec<oneshot::Receiver<Answer>>, Vec<Arc<Inbox>>) {
        let (mut answers, mut inboxes) = (Vec::new(), Vec::new());
        for route in self.all_mut() {
            inboxes.extend(route.inbox.clone());
            if route.persistence == Persistence::Persistent {
                // What comes from now on is not acknowledged, and comes again in another life.
                route.kept = false;
                if let Some(inbox) = route.inbox.take() {
                    inbox.end();
                }
            } else if !route.is_leaving() {
                let (answer, answered) = oneshot::channel();
                route.request(Kind::Unsub, Some(answer), out);
                answers.push(answered);
            }
        }
        (answers, inboxes)
    }

    /// Makes every subscription again on a new connection.
    pub(crate) fn resume(&mut self, out: &mut Outbound) {
        for route in self.all_mut() {
            route.in_force = false;
            if let Some(inbox) = &route.inbox {
                inbox.begin_connection();
            }
            if route.requests.is_empty() {
                route.requests.push_back(Request { kind: Kind::Sub, answer: None });
            }
            for request in &route.requests {
                route.send(request.kind, out);
            }
        }
    }

    /// The connection has ended: what nobody waits for is not asked again.
    pub(crate) fn end_connection(&mut self) {
        for route in self.all_mut() {
            route.end_connection();
        }
    }

    /// Whether every subscription has been answered on this connection.
    pub(crate) fn is_resumed(&self) -> bool {
        !self.awaits_answer()
    }

    /// Whether an answer is due.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.all().any(|route| !route.requests.is_empty())
    }

    /// The filter whose request of this kind was answered without `wc`: the server took it for the name of a channel.
    fn taken_for_channel(&self, name: &str, kind: Kind) -> Option<Target> {
        if self.routes.get(name).is_some_and(|route| route.awaits(kind)) {
            return None;
        }
        let route = self.filters.get(name)?;
        route.awaits(kind).then(|| route.target.clone())
    }

    fn filter_named(&self, name: &str) -> Option<Target> {
        self.filters.get(name).map(|route| route.target.clone())
    }

    /// `subAck`, with `wc` or without.
    pub(crate) fn sub_answered(
        &mut self,
        name: &str,
        is_filter: bool,
        status: StatusCode,
        out: &mut Outbound,
    ) -> Change {
        if is_filter {
            return match self.filter_named(name) {
                Some(target) => self.sub_of_target_answered(&target, status),
                None => Change::None,
            };
        }
        if let Some(target) = self.taken_for_channel(name, Kind::Sub) {
            return self.not_supported(&target, status, out);
        }
        match ChannelName::exact(name) {
            Ok(channel) => self.sub_of_target_answered(&Target::Channel(channel), status),
            Err(_) => Change::None,
        }
    }

    /// The server does not know filters. Subscriptions to the channel that has the same name end, unless it is wanted.
    fn not_supported(&mut self, target: &Target, status: StatusCode, out: &mut Outbound) -> Change {
        if status.is_ok() && !self.routes.contains_key(target.as_str()) {
            let channel = target.as_str().into();
            out.send(&Packet::Unsub(Unsub { channel, is_filter: false }));
        }
        let Some(route) = self.get_mut(target) else { return Change::None };
        if let Some(request) = route.take(Kind::Sub) {
            request.finish(Err(Error::FiltersNotSupported));
        }
        let known = route.known;
        if !route.requests.is_empty() {
            return Change::None;
        }
        match self.remove(target) {
            Some(Target::Filter(filter)) if known => Change::FilterLost(filter, Error::FiltersNotSupported),
            _ => Change::None,
        }
    }

    fn sub_of_target_answered(&mut self, target: &Target, status: StatusCode) -> Change {
        let Some(route) = self.get_mut(target) else { return Change::None };
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
        match self.remove(target) {
            Some(Target::Channel(channel)) if known => Change::Lost(channel, status),
            Some(Target::Filter(filter)) if known => {
                Change::FilterLost(filter, Error::Refused { request: "sub", status, reply: None })
            }
            _ => Change::None,
        }
    }

    /// `unsubAck`, with `wc` or without.
    pub(crate) fn unsub_answered(&mut self, name: &str, is_filter: bool, status: StatusCode) {
        let target = match is_filter {
            true => self.filter_named(name),
            false => self
                .taken_for_channel(name, Kind::Unsub)
                .or_else(|| ChannelName::exact(name).ok().map(Target::Channel)),
        };
        let Some(target) = target else { return };
        let Some(route) = self.get_mut(&target) else { return };
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
            self.remove(&target);
            self.recent.remove(target.as_str());
        }
    }

    fn remove(&mut self, target: &Target) -> Option<Target> {
        let route = match target {
            Target::Channel(channel) => self.routes.remove(channel),
            Target::Filter(filter) => self.filters.remove(filter),
        }?;
        if let Some(inbox) = route.inbox {
            inbox.end();
        }
        Some(route.target)
    }

    /// Whether a push may be for several streams.
    pub(crate) fn has_filters(&self) -> bool {
        !self.filters.is_empty()
    }

    /// The streams that take the pushes of this channel, each once; `everyone` is that of [`Pushes`](crate::Pushes).
    pub(crate) fn takers(&self, channel: &str, everyone: &Arc<Inbox>) -> Vec<Arc<Inbox>> {
        let exact = self.routes.get(channel);
        let matching = self.filters.iter().filter(|(filter, _)| filter.matches(channel));
        let mut is_unknown = exact.is_none();
        let mut takers: Vec<Arc<Inbox>> = Vec::new();
        for route in exact.into_iter().chain(matching.map(|(_, route)| route)) {
            is_unknown = false;
            let taker = match &route.inbox {
                Some(inbox) => inbox,
                None if route.kept => everyone,
                None => continue,
            };
            if !takers.iter().any(|known| Arc::ptr_eq(known, taker)) {
                takers.push(Arc::clone(taker));
            }
        }
        if is_unknown {
            takers.push(Arc::clone(everyone));
        }
        takers
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
        for route in self.all_mut() {
            let is_leaving = route.is_leaving();
            for request in &mut route.requests {
                if let Some(answer) = request.answer.take() {
                    let _ = answer.send(Err(error.clone()));
                }
            }
            if !is_leaving && !route.known {
                given_up.push(route.target.clone());
            }
        }
        for target in given_up {
            self.remove(&target);
        }
    }

    /// The streams there are.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &Inbox> {
        self.all().filter_map(|route| route.inbox.as_deref())
    }

    /// The client has ended.
    pub(crate) fn close(&mut self) {
        for route in self.all() {
            if let Some(inbox) = &route.inbox {
                inbox.end();
            }
        }
        self.routes.clear();
        self.filters.clear();
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

    fn parsed(name: &str) -> Target {
        Target::Channel(ChannelName::parse(name).unwrap())
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
        routes.sub_answered("news", false, StatusCode::OK, &mut out);
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
        routes.unsub_answered("news", false, StatusCode::OK);
        assert!(unsub.try_recv().unwrap().unwrap().is_ok());
        assert!(again.try_recv().is_err() && !routes.is_resumed());
        routes.sub_answered("news", false, StatusCode::OK, &mut out);
        assert!(again.try_recv().unwrap().unwrap().is_ok());
        assert!(routes.is_resumed() && matches!(routes.taker("news"), Taker::Everyone));
    }

    #[test]
    fn each_request_has_its_own_answer() {
        let (mut routes, mut out, news) = (Routes::default(), online(), parsed("news"));
        let mut first = routes.subscribe(&news, Persistence::Temporary, None, &mut out).unwrap();
        let mut second = routes.subscribe(&news, Persistence::Temporary, None, &mut out).unwrap();
        routes.sub_answered("news", false, StatusCode::OK, &mut out);
        assert!(first.try_recv().unwrap().unwrap().is_ok() && second.try_recv().is_err());
        routes.sub_answered("news", false, StatusCode::NOT_ALLOWED, &mut out);
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
        let requests = &routes.get_mut(&news).unwrap().requests;
        assert!(requests.len() <= 2, "{requests:?}");
        out.begin();
        routes.resume(&mut out);
        assert!(sent(&mut out).ends_with(r#"{"unsub":{"cn":"news"}} "#));
    }

    fn filter(text: &str) -> Target {
        Target::Filter(ChannelFilter::parse(text).unwrap())
    }

    #[test] // protocol.md 2.25
    fn a_channel_and_a_filter_of_one_text_are_two_subscriptions() {
        let (mut routes, mut out) = (Routes::default(), online());
        let (channel, filter) = (parsed("a/+"), filter("a/+"));
        let mut one = routes.subscribe(&channel, Persistence::Temporary, None, &mut out).unwrap();
        let inbox = Arc::new(Inbox::new(1024));
        let stream = Some(Arc::clone(&inbox));
        let mut other = routes.subscribe(&filter, Persistence::Temporary, stream, &mut out).unwrap();
        assert_eq!(sent(&mut out), r#"{"sub":{"cn":"a/+"}} {"sub":{"cn":"a/+","wc":1}} "#);
        routes.sub_answered("a/+", true, StatusCode::OK, &mut out);
        assert!(other.try_recv().unwrap().unwrap().is_ok() && one.try_recv().is_err());
        routes.sub_answered("a/+", false, StatusCode::NOT_ALLOWED, &mut out);
        assert_eq!(one.try_recv().unwrap().unwrap(), StatusCode::NOT_ALLOWED);
        let everyone = Arc::new(Inbox::new(1024));
        let is_only = |takers: &[Arc<Inbox>], inbox| matches!(takers, [one] if Arc::ptr_eq(one, inbox));
        assert!(is_only(&routes.takers("a/b", &everyone), &inbox));
        assert!(is_only(&routes.takers("b", &everyone), &everyone));
        // On a new connection it is made again; its pushes have no stream from its end on.
        out.end();
        routes.end_connection();
        out.begin();
        routes.resume(&mut out);
        assert_eq!(sent(&mut out), r#"{"sub":{"cn":"a/+","wc":1}} "#);
        routes.leave(&filter, &inbox, false, &mut out);
        assert!(routes.takers("a/b", &everyone).is_empty());
        routes.sub_answered("a/+", true, StatusCode::OK, &mut out);
        routes.unsub_answered("a/+", true, StatusCode::OK);
        assert!(!routes.has_filters() && routes.is_resumed());
    }

    #[test] // protocol.md 2.25
    fn a_server_without_filters_is_reported_and_its_channel_of_that_name_is_unsubscribed() {
        for is_wanted in [false, true] {
            let (mut routes, mut out, name) = (Routes::default(), online(), "a/+");
            if is_wanted {
                drop(routes.subscribe(&parsed(name), Persistence::Temporary, None, &mut out));
                routes.sub_answered(name, false, StatusCode::OK, &mut out);
            }
            let inbox = Some(Arc::new(Inbox::new(1024)));
            let mut answer =
                routes.subscribe(&filter(name), Persistence::Temporary, inbox, &mut out).unwrap();
            let _ = sent(&mut out);
            let change = routes.sub_answered(name, false, StatusCode::OK, &mut out);
            assert!(matches!(change, Change::None), "{change:?}");
            assert!(matches!(answer.try_recv().unwrap(), Err(Error::FiltersNotSupported)));
            assert!(!routes.has_filters());
            let expected = if is_wanted { "" } else { r#"{"unsub":{"cn":"a/+"}} "# };
            assert_eq!(sent(&mut out), expected);
            routes.unsub_answered(name, false, StatusCode::OK);
        }
    }

    #[test]
    fn a_filter_that_is_refused_after_a_reconnect_is_lost() {
        for is_known in [true, false] {
            let (mut routes, mut out) = (Routes::default(), online());
            let inbox = Some(Arc::new(Inbox::new(1024)));
            drop(routes.subscribe(&filter("a/+"), Persistence::Temporary, inbox, &mut out));
            routes.sub_answered("a/+", true, StatusCode::OK, &mut out);
            out.end();
            routes.end_connection();
            out.begin();
            routes.resume(&mut out);
            let change = routes.sub_answered("a/+", is_known, StatusCode::NOT_ALLOWED, &mut out);
            let Change::FilterLost(filter, error) = change else { panic!("{change:?}") };
            assert_eq!(filter.as_str(), "a/+");
            assert_eq!(matches!(error, Error::FiltersNotSupported), !is_known, "{error}");
        }
    }
}
