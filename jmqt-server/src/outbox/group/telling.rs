//! What a group tells other nodes with members, and hears from them.

use std::collections::HashSet;
use std::sync::Arc;

use jmqt_core::ChannelName;

use super::nodes::{ASK_ROUNDS, number_of};
use super::{Given, GroupState, Held, Holder};
use crate::message::{LoggedPush, ShareMessage};
use crate::outbox::{Flush, Outbox};
use crate::store::LogPlace;
use crate::wire::Pushes;

impl Outbox {
    /// Tells the other nodes with members of a group how many are here.
    pub(crate) fn tell_members(&self) {
        let Some(group) = &self.group else { return };
        let mut state = group.lock();
        for node in group.nodes.others() {
            state.tell_members(node);
        }
        if state.others.has_untold() {
            group.tell(&self.context);
        }
    }

    /// Takes what the nodes of a group must be told.
    pub(crate) fn take_untold(&self) -> Vec<(u64, Vec<ShareMessage>)> {
        self.group.as_ref().map_or_else(Vec::new, |group| group.lock().others.take_untold())
    }

    /// Handles what another node says of a group.
    pub(crate) fn hear_of_group(self: &Arc<Self>, from: u64, message: ShareMessage) {
        let Some(group) = &self.group else { return };
        let mut done = Vec::new();
        {
            let mut state = group.lock();
            match message {
                ShareMessage::Members { count, knows_yours } => {
                    // A message of a node that has ended may be late.
                    if state.others.set_members(from, count) || !group.nodes.contains(from) {
                        state.forget_node(self, from);
                    }
                    if !knows_yours {
                        state.tell_members(from);
                    }
                }
                ShareMessage::Push { channel, sender, run } => {
                    let pushes = Pushes::of_run(channel, sender, run);
                    let dropped = state.push(&pushes, Flush::Later, false, self.limit());
                    self.context.counters.pushes_dropped.add(dropped);
                }
                ShareMessage::Give { channel, messages } => {
                    for message in messages {
                        self.borrow_from(&mut state, from, &channel, &message);
                    }
                }
                ShareMessage::Done(numbers) => done = state.are_done(self, from, &numbers),
                ShareMessage::Returned(numbers) => {
                    state.take_from_node(self, from, &numbers);
                    state.others.has_returned(from);
                }
                ShareMessage::AreHeld(numbers) => {
                    let owned = |held: &Held| held.owner.filter(|(node, _)| *node == from);
                    let held = state.given.values().map(|given| &given.held).chain(&state.borrowed);
                    let held: HashSet<u64> =
                        held.filter_map(|held| owned(held).map(|(_, number)| number)).collect();
                    let lost = numbers.into_iter().filter(|number| !held.contains(number)).collect();
                    state.others.tell(from, ShareMessage::NotHeld(lost));
                }
                ShareMessage::NotHeld(numbers) => {
                    state.others.has_answered(from);
                    let taken = state.take_from_node(self, from, &numbers);
                    self.context.counters.redeliveries.add(taken);
                }
            }
            if state.others.has_untold() {
                group.tell(&self.context);
            }
        }
        for place in done {
            self.share_ended(group, place);
        }
        self.flush();
    }

    /// Takes a message of another node for the members here.
    fn borrow_from(&self, state: &mut GroupState, node: u64, channel: &ChannelName, message: &LoggedPush) {
        let Some(number) = number_of(message.id) else { return };
        if state.bytes >= self.limit() {
            return state.others.tell_number(node, number, false);
        }
        state.hold(Held::new(&self.context, channel, message, None, Some((node, number))));
    }

    /// Looks after what other nodes have of this group: forgets nodes without members, asks for messages that are not done
    /// for long. Called once in a [round](Self::take_from_slow_members).
    pub(crate) fn look_after_nodes(&self) {
        let Some(group) = &self.group else { return };
        let mut state = group.lock();
        let gone: Vec<u64> = state.others.known().filter(|node| !group.nodes.contains(*node)).collect();
        for node in &gone {
            state.forget_node(self, *node);
        }
        if state.round % ASK_ROUNDS == 0 {
            for node in group.nodes.others() {
                match state.others.knows(node) {
                    true => state.ask(self, node),
                    // What it said may have been lost.
                    false => state.tell_members(node),
                }
            }
            state.others.try_full_again();
        }
        let is_waiting = !state.waiting.is_empty();
        if state.others.has_untold() {
            group.tell(&self.context);
        }
        drop(state);
        if is_waiting {
            self.flush();
        }
    }

    /// Takes back what other nodes have, or one of them, because they cannot be reached.
    pub(crate) fn take_from_nodes(&self, unreachable: Option<u64>) {
        let Some(group) = &self.group else { return };
        {
            let mut state = group.lock();
            let nodes: Vec<u64> = state.others.known().collect();
            for node in nodes.into_iter().filter(|node| unreachable.is_none_or(|gone| gone == *node)) {
                state.forget_node(self, node);
            }
        }
        self.flush();
    }
}

impl GroupState {
    fn tell_members(&mut self, node: u64) {
        let count = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.others.tell_members(node, count);
    }

    /// Forgets a node. What it has goes to other members.
    fn forget_node(&mut self, outbox: &Outbox, node: u64) {
        let taken = self.take_given(|given| given.to.is_node(node));
        outbox.context.counters.redeliveries.add(taken.len() as u64);
        self.put_back(taken);
        self.others.forget(node);
    }

    /// Takes messages back from a node that does not have them. Returns their number.
    fn take_from_node(&mut self, outbox: &Outbox, node: u64, numbers: &[u64]) -> u64 {
        let mut taken = Vec::new();
        for number in numbers {
            let id = outbox.context.ids.in_memory(*number);
            if self.given.get(&id).is_some_and(|given| given.to.is_node(node))
                && let Some(given) = self.given.remove(&id)
            {
                self.others.is_taken_back(node, 1);
                taken.push(given.held);
            }
        }
        let count = taken.len() as u64;
        self.put_back(taken);
        count
    }

    /// Ends messages that members of another node have acknowledged, whoever has them now. Returns their places in logs.
    fn are_done(&mut self, outbox: &Outbox, node: u64, numbers: &[u64]) -> Vec<LogPlace> {
        let mut places = Vec::new();
        for number in numbers {
            let id = outbox.context.ids.in_memory(*number);
            let held = match self.given.remove(&id) {
                Some(Given { to, held, .. }) => {
                    if let Holder::Node(holder) = to {
                        match holder == node {
                            true => self.others.is_done(node),
                            false => self.others.is_taken_back(holder, 1),
                        }
                    }
                    held
                }
                // It was taken back.
                None => match self.waiting.iter().position(|held| held.id == id) {
                    Some(at) => match self.waiting.remove(at) {
                        Some(held) => held,
                        None => continue,
                    },
                    None => continue,
                },
            };
            self.change_bytes(|bytes| bytes.saturating_sub(held.bytes));
            places.extend(held.place);
        }
        places
    }

    /// Asks a node for what it has had for long. If it never answers, it does not have it.
    fn ask(&mut self, outbox: &Outbox, node: u64) {
        let (now, is_old) = (self.round, |given: &Given, now: u64| given.since + ASK_ROUNDS <= now);
        let of_node = self.given.iter().filter(|(_, given)| given.to.is_node(node) && is_old(given, now));
        let numbers: Vec<u64> = of_node.filter_map(|(id, _)| number_of(*id)).collect();
        if !numbers.is_empty() && !self.others.ask(node, numbers) {
            self.forget_node(outbox, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Subscription;
    use crate::outbox::group::ShareNodes;
    use crate::outbox::group::tests::{bytes, context, group, held_by, member, publish};

    type WithSubscription = (Arc<Outbox>, Arc<Subscription>);

    /// A group on two nodes, 1 and 2.
    struct Pair([WithSubscription; 2]);

    impl Pair {
        fn new() -> Self {
            let nodes = |other| {
                let nodes = ShareNodes::default();
                nodes.set(other, true);
                Arc::new(nodes)
            };
            Self([group(&context(1), 1, &nodes(2)), group(&context(2), 2, &nodes(1))])
        }

        /// The node that serves channel `a`, and the other one, with their numbers.
        fn sides(&self) -> [(&WithSubscription, u64); 2] {
            let [one, two] = &self.0;
            match one.0.serves(&ChannelName::parse("a").unwrap()) {
                true => [(one, 1), (two, 2)],
                false => [(two, 2), (one, 1)],
            }
        }

        /// Passes on messages until there are none, except those for which this returns `false`.
        fn exchange(&self, arrives: impl Fn(&ShareMessage) -> bool) {
            loop {
                let untold = [self.0[0].0.take_untold(), self.0[1].0.take_untold()];
                if untold.iter().all(Vec::is_empty) {
                    return;
                }
                for (from, untold) in untold.into_iter().enumerate() {
                    for message in untold.into_iter().flat_map(|(_, messages)| messages) {
                        if arrives(&message) {
                            self.0[1 - from].0.hear_of_group(from as u64 + 1, message);
                        }
                    }
                }
            }
        }

        fn rounds(&self, count: u64) {
            for _ in 0..count {
                for (group, _) in &self.0 {
                    group.take_from_slow_members();
                    group.look_after_nodes();
                }
            }
        }
    }

    fn all(_: &ShareMessage) -> bool {
        true
    }

    #[test]
    fn a_node_returns_what_its_members_have_no_room_for_and_gets_more_when_they_have() {
        let pair = Pair::new();
        let [(serving, _), (other, _)] = pair.sides();
        let here = member(&serving.0, "here", 2);
        let there = member(&other.0, "there", 2);
        pair.exchange(all);
        (0..7).for_each(|_| publish(serving));
        pair.exchange(all);
        assert_eq!((held_by(&serving.0, &here).len(), held_by(&other.0, &there).len()), (2, 2));
        let mut done = 4;
        while done < 7 {
            let [id, ..] = held_by(&other.0, &there)[..] else { panic!("{done}") };
            assert!(there.outbox.acknowledge(id));
            pair.exchange(all);
            done += 1;
        }
        for (side, member) in [(serving, here), (other, there)] {
            let held = held_by(&side.0, &member);
            assert_eq!(held.len(), 2);
            assert!(held.into_iter().all(|id| member.outbox.acknowledge(id)));
        }
        pair.exchange(all);
        assert_eq!((bytes(&serving.0), bytes(&other.0)), (0, 0));
    }

    #[test]
    fn a_message_that_was_lost_on_the_way_to_another_node_or_back_is_given_again() {
        for lost in [0, 1, 2] {
            let pair = Pair::new();
            let [(serving, _), (other, _)] = pair.sides();
            let there = member(&other.0, "there", 2);
            pair.exchange(all);
            publish(serving);
            pair.exchange(|message| match message {
                ShareMessage::Give { .. } => lost != 0,
                _ => true,
            });
            let held = held_by(&other.0, &there);
            assert_eq!(held.len(), usize::from(lost != 0));
            let is_done = |id: &_| there.outbox.acknowledge(*id);
            assert!(held.iter().all(is_done));
            pair.exchange(|message| !matches!(message, ShareMessage::Done(_)) || lost == 2);
            assert_eq!(bytes(&serving.0) > 0, lost != 2);
            for _ in 0..2 {
                pair.rounds(ASK_ROUNDS);
                pair.exchange(all);
            }
            let held = held_by(&other.0, &there);
            assert_eq!(held.len(), usize::from(lost != 2), "{lost}");
            assert!(held.iter().all(is_done));
            pair.exchange(all);
            assert_eq!((bytes(&serving.0), bytes(&other.0)), (0, 0));
        }
    }

    #[test]
    fn what_a_node_that_cannot_be_reached_has_goes_to_other_members_and_a_late_acknowledgement_counts() {
        let pair = Pair::new();
        let [(serving, me), (other, node)] = pair.sides();
        let there = member(&other.0, "there", 8);
        pair.exchange(all);
        (0..3).for_each(|_| publish(serving));
        pair.exchange(all);
        let held = held_by(&other.0, &there);
        assert_eq!(held.len(), 3);
        serving.0.take_from_nodes(Some(node));
        assert!(there.outbox.acknowledge(held[0]));
        pair.exchange(all);
        let here = member(&serving.0, "here", 8);
        serving.0.flush();
        let again = held_by(&serving.0, &here);
        assert_eq!(again.len(), 2);
        // The node is back, and gets messages again.
        other.0.tell_members();
        pair.exchange(all);
        (0..2).for_each(|_| publish(serving));
        pair.exchange(all);
        assert_eq!((held_by(&serving.0, &here).len(), held_by(&other.0, &there).len()), (3, 3));
        assert!(again.into_iter().all(|id| here.outbox.acknowledge(id)));
        // Its member leaves, and so its messages come back.
        other.0.part(&there);
        other.0.flush();
        pair.exchange(all);
        assert_eq!((held_by(&serving.0, &here).len(), bytes(&other.0)), (2, 0), "node {me}");
    }

    #[test]
    fn a_node_that_answers_nothing_does_not_keep_messages() {
        let pair = Pair::new();
        let [(serving, _), (other, _)] = pair.sides();
        let there = member(&other.0, "there", 8);
        pair.exchange(all);
        publish(serving);
        pair.exchange(all);
        assert_eq!(held_by(&other.0, &there).len(), 1);
        let here = member(&serving.0, "here", 8);
        pair.exchange(all);
        for _ in 0..10 {
            pair.rounds(ASK_ROUNDS);
            pair.exchange(|message| !matches!(message, ShareMessage::NotHeld(_)));
        }
        assert_eq!(held_by(&serving.0, &here).len(), 1);
    }
}
