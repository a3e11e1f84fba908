//! The group of a shared subscription: each message goes to one of its members (MQTT 5.0, 4.8.2).
//!
//! A group is an outbox without a connection. Its subscriptions receive the messages of a filter as those of a client do,
//! with a window and with cursors, but the messages become [`Held`] instead of bytes, and [`Outbox::flush`] gives each of
//! them to a member. A message stays here until the member has acknowledged it. If the member leaves before, another one
//! gets it. Members on other nodes of a cluster take part through [`nodes`].
//!
//! Order of locks: the outbox of a group, then its members' list, then the outbox of one member.

mod nodes;
mod telling;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jmqt_core::{ChannelName, ClientId, Persistence, Qos};
use tokio::sync::Notify;

use self::nodes::{OtherNodes, number_of};
use super::deliveries::{Offered, Origin, list_if_behind};
use super::position::{LogPosition, Reached, Source};
use super::subscription::{LogState, Stage, Subscription};
use super::window::Redelivery;
use super::{Flush, Outbox, OutboxContext, State};
use crate::budget::Share;
use crate::message::{LoggedPush, Pieces, PushId};
use crate::options::{Grant, SubscriptionOptions};
use crate::store::{LogPlace, Seq};
use crate::wire::{Form, LoggedPushes, Pushes};

pub(crate) use self::nodes::ShareNodes;

/// The number of messages of a group that may be unacknowledged.
const GROUP_WINDOW: u32 = 16_384;
/// If a group cannot go on, it takes messages away from members that have not acknowledged them for this number of
/// [rounds](Outbox::take_from_slow_members).
const PATIENCE: u64 = 150;
/// The memory of a held message in addition to its data.
const HELD_OVERHEAD: usize = 512;

/// What the groups of a server share.
#[derive(Default)]
pub(crate) struct Groups {
    /// Groups that can read on in their logs.
    to_read: Listed,
    /// Groups that have something to tell other nodes.
    to_tell: Listed,
    ids: AtomicU64,
}

/// Groups that a task must look after.
#[derive(Default)]
struct Listed {
    groups: Mutex<Vec<Arc<Outbox>>>,
    arrived: Notify,
}

impl Listed {
    /// Adds a group that is not in the list.
    fn add(&self, group: &Group, is_listed: &AtomicBool) {
        if !is_listed.swap(true, Ordering::AcqRel)
            && let Some(outbox) = group.me.upgrade()
        {
            self.groups.lock().unwrap_or_else(PoisonError::into_inner).push(outbox);
            self.arrived.notify_one();
        }
    }

    /// Waits for groups, and takes them.
    async fn take(&self, is_listed: impl Fn(&Group) -> &AtomicBool) -> Vec<Arc<Outbox>> {
        loop {
            let listed = std::mem::take(&mut *self.groups.lock().unwrap_or_else(PoisonError::into_inner));
            for group in listed.iter().filter_map(|outbox| outbox.group.as_ref()) {
                is_listed(group).store(false, Ordering::Release);
            }
            if !listed.is_empty() {
                return listed;
            }
            self.arrived.notified().await;
        }
    }
}

impl Groups {
    /// Waits for groups that can read on, and takes them.
    pub(crate) async fn take(&self) -> Vec<Arc<Outbox>> {
        self.to_read.take(|group| &group.is_listed).await
    }

    /// Waits for groups with [messages for other nodes](Outbox::take_untold), and takes them.
    pub(crate) async fn take_telling(&self) -> Vec<Arc<Outbox>> {
        self.to_tell.take(|group| &group.is_telling).await
    }

    /// An id of a message of a group, which differs from those of all other messages in memory.
    fn next_id(&self, context: &OutboxContext) -> PushId {
        context.ids.in_memory(1 << 63 | self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

/// The group of an outbox.
pub(crate) struct Group {
    /// `$share/GROUP/FILTER`.
    name: ChannelName,
    /// The number of this node; 0 on a single server.
    node: u64,
    nodes: Arc<ShareNodes>,
    me: Weak<Outbox>,
    /// It can read on in its logs.
    is_listed: AtomicBool,
    /// It has something to tell other nodes.
    is_telling: AtomicBool,
    /// There may be logs to read that have no reader.
    wants_readers: AtomicBool,
    state: Mutex<GroupState>,
}

struct GroupState {
    members: Vec<Arc<Subscription>>,
    /// The members on other nodes.
    others: OtherNodes,
    /// The index of the member whose turn it is: one of `members`, or after them one of `others`.
    next: usize,
    /// Messages that no member has, in order.
    waiting: VecDeque<Held>,
    /// Messages of other nodes that no member has. Those for which no member has room go back.
    borrowed: VecDeque<Held>,
    /// Messages that a member, or another node, has not acknowledged.
    given: HashMap<PushId, Given, foldhash::fast::RandomState>,
    /// The memory of all of them.
    bytes: usize,
    counted: Share,
    /// Members with appended bytes that have not been flushed.
    dirty: Vec<Arc<Outbox>>,
    /// A clock of long intervals.
    round: u64,
}

/// A message of a group.
struct Held {
    /// By which members acknowledge it.
    id: PushId,
    /// Its place in the log that the group reads.
    place: Option<LogPlace>,
    /// The node that it comes from and goes back to, and its number there.
    owner: Option<(u64, u64)>,
    /// The message alone, encoded once for all members that are tried.
    pushes: LoggedPushes,
    bytes: usize,
    /// The member that has had it too long.
    not_to: Option<Slow>,
}

/// What has had a message too long.
enum Slow {
    Member(Weak<Subscription>),
    Node(u64),
}

/// What has a message.
enum Holder {
    Member(Arc<Subscription>),
    Node(u64),
}

impl Holder {
    fn is(&self, member: &Arc<Subscription>) -> bool {
        matches!(self, Self::Member(holder) if Arc::ptr_eq(holder, member))
    }

    fn is_node(&self, id: u64) -> bool {
        matches!(self, Self::Node(node) if *node == id)
    }
}

struct Given {
    to: Holder,
    /// The round in which it was given.
    since: u64,
    held: Held,
}

/// What becomes of a message that a member is offered.
enum Accepted {
    /// The member acknowledges it.
    UntilAcknowledged,
    /// It was sent without an acknowledgement, or has expired.
    Done,
    /// The member has no room.
    No,
    /// It is larger than the member accepts.
    TooLarge,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if this node serves the group's messages of this channel.
    fn serves(&self, channel: &ChannelName) -> bool {
        self.nodes.is_served_by(self.node, self.name.as_str(), channel.as_str())
    }

    /// Returns `true` if the group holds as much as one client may.
    pub(super) fn is_full(&self, limit: usize) -> bool {
        self.lock().bytes >= limit
    }

    /// Keeps a message for the next [`Outbox::flush`].
    fn hold(
        &self,
        context: &OutboxContext,
        channel: &ChannelName,
        message: &LoggedPush,
        place: Option<LogPlace>,
    ) {
        self.lock().hold(Held::new(context, channel, message, place, None));
    }

    /// Lets the hub tell other nodes what they must know.
    fn tell(&self, context: &OutboxContext) {
        context.groups.to_tell.add(self, &self.is_telling);
    }
}

impl Held {
    fn new(
        context: &OutboxContext,
        channel: &ChannelName,
        message: &LoggedPush,
        place: Option<LogPlace>,
        owner: Option<(u64, u64)>,
    ) -> Self {
        let id = context.groups.next_id(context);
        let bytes = message.data.as_bytes().len() + HELD_OVERHEAD;
        let alone = vec![LoggedPush { id, ..message.clone() }];
        let pushes = LoggedPushes::new(context.ids, channel.clone(), alone);
        Self { id, place, owner, pushes, bytes, not_to: None }
    }
}

impl GroupState {
    fn hold(&mut self, held: Held) {
        self.change_bytes(|bytes| bytes + held.bytes);
        match held.owner {
            None => self.waiting.push_back(held),
            Some(_) => self.borrowed.push_back(held),
        }
    }

    /// Lets other members have messages before all others.
    fn put_back(&mut self, mut back: Vec<Held>) {
        back.sort_unstable_by_key(|held| std::cmp::Reverse(number_of(held.id)));
        for held in back {
            match held.owner {
                None => self.waiting.push_front(held),
                Some(_) => self.borrowed.push_front(held),
            }
        }
    }

    /// Takes back what has been given and is wanted.
    fn take_given(&mut self, mut wanted: impl FnMut(&Given) -> bool) -> Vec<Held> {
        let taken: Vec<Given> =
            self.given.extract_if(|_, given| wanted(given)).map(|(_, given)| given).collect();
        for given in &taken {
            if let Holder::Node(node) = given.to {
                self.others.is_taken_back(node, 1);
            }
        }
        taken.into_iter().map(|given| given.held).collect()
    }

    /// The number of members here and on other nodes.
    fn member_count(&self) -> usize {
        self.members.len() + self.others.members()
    }

    fn change_bytes(&mut self, change: impl FnOnce(usize) -> usize) {
        self.bytes = change(self.bytes);
        self.counted.set(self.bytes);
    }

    /// Gives waiting messages to members in turn, as long as one has room. Returns the log places of those that need no
    /// acknowledgement.
    fn give(&mut self, serves: impl Fn(&ChannelName) -> bool) -> Vec<LogPlace> {
        let mut done = Vec::new();
        while let Some(held) = self.waiting.pop_front() {
            if held.place.is_some() && !serves(&held.pushes.channel) {
                // Another node reads it from the log.
                self.change_bytes(|bytes| bytes.saturating_sub(held.bytes));
                continue;
            }
            let Some(accepting) = self.accepting(&held) else {
                self.waiting.push_front(held);
                break;
            };
            done.extend(self.accepted(held, accepting));
        }
        while let Some(held) = self.borrowed.pop_front() {
            if let Some(accepting) = self.accepting(&held) {
                done.extend(self.accepted(held, accepting));
            } else if let Some((node, number)) = held.owner {
                self.change_bytes(|bytes| bytes.saturating_sub(held.bytes));
                self.others.tell_number(node, number, false);
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(64);
        }
        done
    }

    /// Records that a message has been accepted. Returns its log place if it needs no acknowledgement.
    fn accepted(&mut self, held: Held, (to, accepted): (Option<Holder>, Accepted)) -> Option<LogPlace> {
        if let (Accepted::UntilAcknowledged, Some(to)) = (accepted, to) {
            self.given.insert(held.id, Given { to, since: self.round, held });
            return None;
        }
        self.change_bytes(|bytes| bytes.saturating_sub(held.bytes));
        if let Some((node, number)) = held.owner {
            self.others.tell_number(node, number, true);
        }
        held.place
    }

    /// The next member that takes a message; `None` if all are full. A message that is too large for all of them counts as
    /// sent [MQTT-3.1.2-25].
    fn accepting(&mut self, held: &Held) -> Option<(Option<Holder>, Accepted)> {
        let here = self.members.len();
        // A message of another node stays on this node.
        let count = if held.owner.is_some() { here } else { self.member_count() };
        let (mut too_large, mut turn) = (0, 0);
        while turn < count {
            let at = (self.next + turn) % count;
            turn += 1;
            let Some(member) = self.members.get(at) else {
                let (node, members, left) = self.others.of_member(at - here)?;
                let is_slow = matches!(held.not_to, Some(Slow::Node(slow)) if slow == node);
                if is_slow && count > members
                    || !self.others.give(node, &held.pushes.channel, &held.pushes.messages[0])
                {
                    turn += left - 1; // its other members have no room either
                    continue;
                }
                self.next = (at + 1) % count;
                return Some((Some(Holder::Node(node)), Accepted::UntilAcknowledged));
            };
            let is_slow = matches!(&held.not_to, Some(Slow::Member(slow)) if std::ptr::eq(slow.as_ptr(), Arc::as_ptr(member)));
            if is_slow && count > 1 {
                continue;
            }
            let (accepted, flush) = member.outbox.take_share(member, held);
            match accepted {
                Accepted::No => continue,
                Accepted::TooLarge => {
                    too_large += 1;
                    continue;
                }
                Accepted::UntilAcknowledged | Accepted::Done => {
                    self.next = (at + 1) % count;
                    let member = Arc::clone(member);
                    if flush {
                        self.dirty.push(Arc::clone(&member.outbox));
                    }
                    return Some((Some(Holder::Member(member)), accepted));
                }
            }
        }
        (count > 0 && too_large == count).then_some((None, Accepted::TooLarge))
    }

    /// Sends one of these QoS 0 messages to a member here. Returns `false` if none has room. `at` is the index of the
    /// member whose turn it is.
    fn push_to_member(
        &mut self,
        at: usize,
        pushes: &Pushes,
        own: &mut [Option<Pieces>],
        index: usize,
        flush: Flush,
    ) -> bool {
        let member = Arc::clone(&self.members[at]);
        let form = member.outbox.form();
        let framed = match member.options().has_own_encoding() {
            false => pushes.framed(form),
            true => own[at].get_or_insert_with(|| member.with_terms(|terms| pushes.framed_for(form, terms))),
        };
        let Some(needs_flush) = member.outbox.push_share(&member, framed, index, flush) else { return false };
        if needs_flush {
            self.dirty.push(Arc::clone(&member.outbox));
        }
        true
    }

    /// Sends each of these QoS 0 messages to a member with room, here or, if `to_all`, on another node. Returns the
    /// number of those that were dropped.
    fn push(&mut self, pushes: &Pushes, flush: Flush, to_all: bool, limit: usize) -> u64 {
        let here = self.members.len();
        let count = if to_all { self.member_count() } else { here };
        let mut own: Vec<Option<Pieces>> = Vec::new(); // encoded for single members
        own.resize_with(here, || None);
        let mut elsewhere: Vec<(u64, Vec<usize>)> = Vec::new();
        let mut dropped = 0;
        for index in 0..pushes.count() {
            let next = self.next;
            let taken = (0..count).map(|turn| (next + turn) % count).find(|at| {
                if *at < here {
                    return self.push_to_member(*at, pushes, &mut own, index, flush);
                }
                let Some((node, ..)) = self.others.of_member(at - here) else { return false };
                match elsewhere.iter_mut().find(|(to, _)| *to == node) {
                    Some((_, indexes)) => indexes.push(index),
                    None => elsewhere.push((node, vec![index])),
                }
                true
            });
            match taken {
                Some(at) => self.next = (at + 1) % count,
                None => dropped += 1,
            }
        }
        for (node, indexes) in elsewhere {
            if !self.others.push(node, pushes, &indexes, limit) {
                dropped += indexes.len() as u64;
            }
        }
        dropped
    }
}

impl Outbox {
    /// The outbox of a group. Its subscriptions have the options of a group.
    pub(crate) fn of_group(
        context: &Arc<OutboxContext>,
        name: &ChannelName,
        node: u64,
        nodes: &Arc<ShareNodes>,
    ) -> Arc<Self> {
        let group = |me: &Weak<Self>| {
            let mut outbox = Self::new(Form::MqttV5, None, Arc::clone(context));
            outbox.group = Some(Box::new(Group {
                name: name.clone(),
                node,
                nodes: Arc::clone(nodes),
                me: Weak::clone(me),
                is_listed: AtomicBool::new(false),
                is_telling: AtomicBool::new(false),
                wants_readers: AtomicBool::new(false),
                state: Mutex::new(GroupState {
                    members: Vec::new(),
                    others: OtherNodes::default(),
                    next: 0,
                    waiting: VecDeque::new(),
                    borrowed: VecDeque::new(),
                    given: HashMap::default(),
                    bytes: 0,
                    counted: Share::new(&context.outbound),
                    dirty: Vec::new(),
                    round: 0,
                }),
            }));
            outbox
        };
        let outbox = Arc::new_cyclic(group);
        outbox.set_window(GROUP_WINDOW, Redelivery::AtOnce);
        outbox.go_live();
        outbox
    }

    /// Returns `true` for a client, and for a group whose messages of this channel go to members on this node.
    pub(crate) fn serves(&self, channel: &ChannelName) -> bool {
        self.group.as_ref().is_none_or(|group| group.serves(channel))
    }

    /// Returns `true` for the outbox of a group.
    pub(crate) fn is_group(&self) -> bool {
        self.group.is_some()
    }

    /// Adds a member to a group.
    pub(crate) fn join(self: &Arc<Self>, member: &Arc<Subscription>, persistence: Persistence) {
        let Some(group) = &self.group else { return };
        *member.log() =
            LogState::Share { group: Arc::clone(self), is_kept: persistence == Persistence::Persistent };
        group.lock().members.push(Arc::clone(member));
        self.tell_members();
    }

    /// Removes a member that has ended. What it has not acknowledged goes to others at the next [`flush`](Self::flush).
    /// Returns `true` if no member is left.
    pub(crate) fn part(&self, member: &Arc<Subscription>) -> bool {
        let Some(group) = &self.group else { return true };
        let mut state = group.lock();
        state.members.retain(|other| !Arc::ptr_eq(other, member));
        let left = state.take_given(|given| given.to.is(member));
        self.context.counters.redeliveries.add(left.len() as u64);
        state.put_back(left);
        let is_empty = state.members.is_empty();
        drop(state);
        self.tell_members();
        if is_empty {
            self.list_group(group);
        }
        is_empty
    }

    /// Lets the hub look for logs to read that have no reader.
    pub(crate) fn want_readers(self: &Arc<Self>) {
        let Some(group) = &self.group else { return };
        group.wants_readers.store(true, Ordering::Release);
        self.list_group(group);
    }

    /// Lets the hub look after a group.
    fn list_group(&self, group: &Group) {
        self.context.groups.to_read.add(group, &group.is_listed);
    }

    /// The name of the shares of a group.
    pub(crate) fn name_of_group(&self) -> Option<&ChannelName> {
        self.group.as_ref().map(|group| &group.name)
    }

    /// Returns `true` once after [`want_readers`](Self::want_readers).
    pub(crate) fn wants_readers(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.wants_readers.swap(false, Ordering::AcqRel))
    }

    /// The members of a group.
    pub(crate) fn group_members(&self) -> Vec<Arc<Subscription>> {
        self.group.as_ref().map_or_else(Vec::new, |group| group.lock().members.clone())
    }

    /// Returns `true` if messages of a group wait for a member with room.
    pub(crate) fn has_waiting_shares(&self) -> bool {
        self.group.as_ref().is_some_and(|group| !group.lock().waiting.is_empty())
    }

    /// Takes messages from members that do not acknowledge them, if the group cannot go on because of them: other members
    /// get them. Called once in a round.
    pub(crate) fn take_from_slow_members(&self) {
        let Some(group) = &self.group else { return };
        let is_stuck = group.is_full(self.limit()) || self.is_at_horizon();
        let mut state = group.lock();
        state.round += 1;
        let round = state.round;
        if !is_stuck || state.member_count() < 2 {
            return;
        }
        let slow = state.given.extract_if(|_, given| given.since + PATIENCE <= round);
        let slow: Vec<Given> = slow.map(|(_, given)| given).collect();
        self.context.counters.redeliveries.add(slow.len() as u64);
        let taken = slow.into_iter().map(|Given { to, held, .. }| {
            let not_to = match to {
                Holder::Member(member) => Slow::Member(Arc::downgrade(&member)),
                Holder::Node(node) => {
                    state.others.is_taken_back(node, 1);
                    Slow::Node(node)
                }
            };
            Held { not_to: Some(not_to), ..held }
        });
        let taken = taken.collect();
        state.put_back(taken);
    }

    /// Returns `true` if a log has messages beyond those that a cursor can record.
    fn is_at_horizon(&self) -> bool {
        let state = self.lock();
        let Some(window) = state.deliveries.made_window() else { return false };
        let is_at = |subscription: &Arc<Subscription>| match &*subscription.log() {
            LogState::Attached(position) => position.is_behind() && position.next > position.acked.horizon(),
            _ => false,
        };
        window.behind.iter().any(is_at)
    }

    /// Offers QoS 1 messages to a group: see [`offer`](Self::offer).
    pub(super) fn offer_to_group(
        &self,
        group: &Group,
        subscription: &Arc<Subscription>,
        logged: &LoggedPushes,
        source: Source,
    ) -> Offered {
        let nothing = Offered { flush: false, behind: false, lacks_reader: false };
        if !group.serves(&logged.channel) {
            return nothing;
        }
        let mut state = self.lock();
        if state.closed().is_some() || subscription.stage() == Stage::Ended {
            return nothing;
        }
        let mut log = subscription.log();
        let (behind, lacks_reader) = match &mut *log {
            LogState::Filter if logged.last_logged().is_some() => (false, true),
            LogState::Attaching { seen } => {
                *seen = (*seen).max(logged.last_logged());
                (true, false)
            }
            // They may belong to a deleted log.
            LogState::Attached(position) if source.log(logged).is_some_and(|log| log != position.key) => {
                (false, false)
            }
            LogState::Attached(position) => {
                self.hold_logged(&mut state, group, subscription, position, logged, source);
                (position.is_behind(), false)
            }
            _ => {
                logged.messages.iter().for_each(|message| self.hold_unlogged(group, logged, message));
                (false, false)
            }
        };
        drop(log);
        let flush = state.writer.is_first_to_append();
        Offered { flush, behind, lacks_reader }
    }

    /// Holds a message that is in no log, if there is room.
    fn hold_unlogged(&self, group: &Group, logged: &LoggedPushes, message: &LoggedPush) {
        if group.is_full(self.limit()) {
            self.context.counters.pushes_dropped.increment();
        } else {
            group.hold(&self.context, &logged.channel, message, None);
        }
    }

    fn hold_logged(
        &self,
        state: &mut State,
        group: &Group,
        subscription: &Arc<Subscription>,
        position: &mut LogPosition,
        logged: &LoggedPushes,
        source: Source,
    ) {
        position.see(logged);
        let mut is_behind = false;
        for message in &logged.messages {
            let PushId::Logged(place @ LogPlace { seq: Seq(seq), stamp, .. }) = message.id else {
                if source == Source::Live {
                    self.hold_unlogged(group, logged, message);
                }
                continue;
            };
            if is_behind {
                continue;
            }
            match position.reach(seq, source) {
                Reached::Next => {}
                Reached::Passed => continue,
                Reached::Beyond => {
                    is_behind = true;
                    continue;
                }
            }
            if position.acked.contains(seq) {
                position.next += 1;
                continue;
            }
            let window = state.deliveries.window();
            if group.is_full(self.limit()) || window.room_for_logged(position.in_flight) == 0 {
                is_behind = true;
                continue;
            }
            window.logged_sent(1);
            position.sent(Seq(seq), stamp);
            group.hold(&self.context, &logged.channel, message, Some(place));
        }
        position.finish(logged, source);
        list_if_behind(state.deliveries.window(), subscription, position);
    }

    /// Sends each of these QoS 0 messages to a member with room. Returns `true` if the caller must [`flush`](Self::flush).
    pub(super) fn push_to_group(&self, group: &Group, pushes: &Pushes, flush: Flush) -> bool {
        if !group.serves(pushes.channel()) {
            return false;
        }
        let mut state = group.lock();
        let dropped = state.push(pushes, flush, true, self.limit());
        self.context.counters.pushes_dropped.add(dropped);
        if state.others.has_untold() {
            group.tell(&self.context);
        }
        let is_dirty = !state.dirty.is_empty();
        // The outbox of a group is locked before the group, and never after it.
        drop(state);
        is_dirty && self.lock_writer_first()
    }

    fn lock_writer_first(&self) -> bool {
        self.lock().writer.is_first_to_append()
    }

    /// Gives the waiting messages of a group to members with room.
    pub(super) fn give_shares(&self, group: &Group) {
        let (done, dirty) = {
            let mut state = group.lock();
            let done = state.give(|channel| group.serves(channel));
            if state.others.has_untold() {
                group.tell(&self.context);
            }
            (done, std::mem::take(&mut state.dirty))
        };
        if let Some(me) = group.me.upgrade() {
            done.into_iter().for_each(|place| me.share_ended(group, place));
        }
        dirty.iter().for_each(|member| member.flush());
    }

    /// A member has acknowledged a message of its group.
    pub(super) fn share_acknowledged(self: &Arc<Self>, id: PushId) {
        let Some(group) = &self.group else { return };
        let (place, is_waiting) = {
            let mut state = group.lock();
            let Some(Given { held, .. }) = state.given.remove(&id) else { return };
            if state.given.is_empty() {
                state.given.shrink_to(64);
            }
            state.change_bytes(|bytes| bytes.saturating_sub(held.bytes));
            if let Some((node, number)) = held.owner {
                state.others.tell_number(node, number, true);
                group.tell(&self.context);
            }
            (held.place, !state.waiting.is_empty())
        };
        if let Some(place) = place {
            self.share_ended(group, place);
        }
        if is_waiting {
            self.flush();
        }
    }

    /// Moves the cursor of a group, and lists it if it can read on.
    fn share_ended(self: &Arc<Self>, group: &Group, place: LogPlace) {
        self.acknowledge(PushId::Logged(place));
        if self.wants_resume() {
            self.list_group(group);
        }
    }

    /// Takes a message of a group, if this client has room for it. The second value is `true` if the caller must
    /// [`flush`](Self::flush).
    fn take_share(&self, subscription: &Arc<Subscription>, held: &Held) -> (Accepted, bool) {
        let (form, options) = (self.form(), subscription.options());
        let grant = options.grant(Qos::AtLeastOnce);
        let own;
        let framed = match options.has_own_encoding() {
            false => held.pushes.framed(form, grant),
            true => {
                own = subscription.with_terms(|terms| held.pushes.framed_for(form, grant, terms));
                &own
            }
        };
        let bytes = framed.cut(0..1);
        if bytes.is_empty() {
            self.context.counters.pushes_dropped.increment();
            return (Accepted::Done, false); // it has expired
        }
        if bytes.len() > self.packet_limit() {
            return (Accepted::TooLarge, false);
        }
        let mut state = self.lock();
        if !state.is_flowing() || subscription.stage() != Stage::Live || self.is_full(&state) {
            return (Accepted::No, false);
        }
        let accepted = if grant == Grant::Unacknowledged {
            if state.waiting() > 0 && state.writer.len() + bytes.len() > self.limit() {
                return (Accepted::No, false);
            }
            self.context.counters.pushes_sent.increment();
            self.append_messages(&mut state, bytes);
            Accepted::Done
        } else {
            if !state.deliveries.window().try_send_temporary(held.id, subscription) {
                return (Accepted::No, false);
            }
            self.context.counters.pushes_sent.increment();
            self.send(&mut state, subscription, held.id, bytes, Origin::Memory);
            Accepted::UntilAcknowledged
        };
        self.count(&mut state);
        (accepted, state.writer.is_first_to_append())
    }

    /// Appends one of these QoS 0 messages, if there is room. Returns `true` if the caller must [`flush`](Self::flush);
    /// `None` without room.
    fn push_share(
        &self,
        subscription: &Subscription,
        framed: &Pieces,
        index: usize,
        flush: Flush,
    ) -> Option<bool> {
        let bytes = framed.cut(index..index + 1);
        if bytes.len() > self.packet_limit() {
            return None;
        }
        let mut state = self.lock();
        let stage = subscription.stage();
        if state.closed().is_some()
            || stage == Stage::Ended
            || state.waiting() > 0 && state.writer.len() + state.held_bytes() + bytes.len() > self.limit()
        {
            return None;
        }
        self.context.counters.pushes_sent.increment();
        if state.is_connecting() || stage == Stage::Opening {
            state.held.get_or_insert_default().hold(bytes);
            self.count(&mut state);
            return Some(false);
        }
        self.append_messages(&mut state, bytes);
        if flush == Flush::Now {
            self.flush_locked(&mut state);
            return Some(false);
        }
        Some(state.writer.is_first_to_append())
    }
}

impl Subscription {
    /// The subscription of a group to its filter.
    pub(crate) fn of_group(
        name: ChannelName,
        owner: ClientId,
        outbox: &Arc<Outbox>,
        log: LogState,
    ) -> Arc<Self> {
        let made = Self::new(name, owner, Arc::clone(outbox), Stage::Live, log);
        made.set_options(SubscriptionOptions::GROUP);
        Arc::new(made)
    }

    /// The outbox of the group of a member.
    pub(crate) fn group(&self) -> Option<Arc<Outbox>> {
        match &*self.log() {
            LogState::Share { group, .. } => Some(Arc::clone(group)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use jmqt_core::Payload;

    use super::*;
    use crate::message::{Body, Data};
    use crate::store::Epoch;
    use crate::wire::{IdSpace, PushesBuilder};

    /// The context of a server, whose process has this number.
    pub(super) fn context(process: u32) -> Arc<OutboxContext> {
        Arc::new(OutboxContext {
            queue_bytes: 8 * HELD_OVERHEAD,
            outbound: Arc::new(crate::budget::Budget::new(1 << 30)),
            counters: Arc::default(),
            ids: IdSpace::new(Epoch(0), process),
            moved_cursors: Mutex::default(),
            unrecorded: super::super::Unrecorded::default(),
            groups: Groups::default(),
        })
    }

    /// A group for the filter `a` that keeps nothing in the store, and its subscription.
    pub(super) fn group(
        context: &Arc<OutboxContext>,
        node: u64,
        nodes: &Arc<ShareNodes>,
    ) -> (Arc<Outbox>, Arc<Subscription>) {
        let share = ChannelName::exact("$share/g/a").unwrap();
        let group = Outbox::of_group(context, &share, node, nodes);
        let (filter, owner) = (ChannelName::exact("$filter/a").unwrap(), ClientId::of_group("g/a").unwrap());
        let own = Subscription::of_group(filter, owner, &group, LogState::Temporary);
        assert!(group.insert_subscription(&own));
        (group, own)
    }

    /// A member that may have this number of messages without acknowledgement.
    pub(super) fn member(group: &Arc<Outbox>, name: &str, window: u32) -> Arc<Subscription> {
        let outbox = Arc::new(Outbox::new(Form::MqttV5, None, Arc::clone(&group.context)));
        outbox.set_window(window, Redelivery::AtOnce);
        outbox.go_live();
        let (share, client) = (ChannelName::exact("$share/g/a").unwrap(), ClientId::parse(name).unwrap());
        let member = Subscription::new(share, client, outbox, Stage::Live, LogState::Temporary);
        member.set_options(SubscriptionOptions::new(Qos::AtLeastOnce).shared());
        let member = Arc::new(member);
        assert!(member.outbox.insert_subscription(&member));
        group.join(&member, Persistence::Temporary);
        member
    }

    #[test]
    fn a_group_takes_messages_of_both_qos_at_the_same_time() {
        let context = context(1);
        let of_group = group(&context, 1, &Arc::default());
        let _member = member(&of_group.0, "m", 10);
        let channel = ChannelName::parse("a").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let mut pushes = PushesBuilder::new(&channel, None, Body::Json(Payload::NULL));
                    pushes.push(Body::Json(Payload::NULL));
                    of_group.0.push(&of_group.1, &pushes.finish(), Flush::Later);
                }
            });
            scope.spawn(|| (0..20_000).for_each(|_| publish(&of_group)));
        });
    }

    /// Publishes a message to channel `a`.
    pub(super) fn publish((group, own): &(Arc<Outbox>, Arc<Subscription>)) {
        let ids = group.context.ids;
        let data = Data::checked_before("1".into());
        let push = LoggedPush { id: ids.in_memory(0), sender: None, data };
        let pushes = LoggedPushes::new(ids, ChannelName::parse("a").unwrap(), vec![push]);
        group.offer(own, &pushes, Source::Live);
        group.flush();
    }

    /// The ids of what a member has not acknowledged.
    pub(super) fn held_by(group: &Outbox, member: &Arc<Subscription>) -> Vec<PushId> {
        let state = group.group.as_ref().unwrap().lock();
        state.given.iter().filter(|(_, given)| given.to.is(member)).map(|(id, _)| *id).collect()
    }

    /// The bytes of all messages of a group.
    pub(super) fn bytes(group: &Outbox) -> usize {
        group.group.as_ref().unwrap().lock().bytes
    }

    #[test]
    fn a_member_that_acknowledges_nothing_does_not_stop_a_group() {
        let both = group(&context(1), 0, &Arc::default());
        let group = &both.0;
        let slow = member(group, "slow", 16);
        (0..10).for_each(|_| publish(&both));
        assert_eq!(held_by(group, &slow).len(), 8, "two had no room");
        let diligent = member(group, "diligent", 16);
        for _ in 0..PATIENCE {
            assert_eq!((held_by(group, &slow).len(), held_by(group, &diligent).len()), (8, 0));
            group.take_from_slow_members();
            group.flush();
        }
        let ids = held_by(group, &diligent);
        assert!(ids.len() == 8 && held_by(group, &slow).is_empty());
        // A late acknowledgement counts once.
        assert!(ids.iter().all(|id| slow.outbox.acknowledge(*id)));
        assert!(held_by(group, &diligent).is_empty());
        assert!(ids.iter().all(|id| diligent.outbox.acknowledge(*id)));
        assert_eq!(bytes(group), 0);
    }
}
