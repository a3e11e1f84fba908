//! The nodes of a cluster with members of a group.
//!
//! All nodes compute alike which of them serves a channel ([`ShareNodes`]). That node gives messages to members of the
//! other nodes too ([`OtherNodes`]), and keeps each of them until it comes back as done. So no message is lost with
//! another node, and no other node has to wait for room: it returns what no member takes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{PoisonError, RwLock};

use jmqt_core::ChannelName;

use crate::message::{LoggedPush, Pieces, PushId, Run, ShareMessage};
use crate::wire::Pushes;

/// The limit for the messages of a group that a node may have. It also cannot have more than a cursor can record.
const MOST_GIVEN: u32 = 1024;
/// A node that has returned none gets at first this number of messages for each member.
const FIRST_GIVEN: u32 = 16;
/// A node that has returned messages may have one more for each number of messages that are done.
const DONE_FOR_MORE: u32 = 16;
/// The rounds after which a node is asked for messages that are not done, or tried again if it had no room.
pub(super) const ASK_ROUNDS: u64 = 25;
/// A node that has not answered this number of times does not have the messages.
const MOST_UNANSWERED: u32 = 6;

/// The nodes with members of a group. Each channel is served by one of them, which all compute alike.
#[derive(Default)]
pub(crate) struct ShareNodes {
    others: RwLock<Vec<u64>>,
}

impl ShareNodes {
    /// Adds or removes another node; returns `true` if there are others.
    pub(crate) fn set(&self, node: u64, has_members: bool) -> bool {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.retain(|other| *other != node);
        if has_members {
            others.push(node);
        }
        !others.is_empty()
    }

    /// The other nodes.
    pub(super) fn others(&self) -> Vec<u64> {
        self.others.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn contains(&self, node: u64) -> bool {
        self.others.read().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// Returns `true` if the node `me` serves this channel of a group.
    pub(super) fn is_served_by(&self, me: u64, group: &str, channel: &str) -> bool {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        if others.is_empty() {
            return true;
        }
        // The highest number wins, so that few channels move if a node comes or goes. Not keyed: it is the same everywhere.
        let number = |node: u64| {
            let mut hasher = DefaultHasher::new();
            (group, channel, node).hash(&mut hasher);
            (hasher.finish(), node)
        };
        let own = number(me);
        others.iter().all(|other| number(*other) < own)
    }
}

/// What this node knows of the members on other nodes, and what it has to tell these nodes.
#[derive(Default)]
pub(super) struct OtherNodes {
    /// The nodes that have said how many members they have. The others get no messages.
    nodes: Vec<OtherNode>,
    /// Messages to nodes, in order.
    untold: Vec<(u64, Vec<ShareMessage>)>,
    /// The data without acknowledgement among them, in bytes.
    untold_bytes: usize,
}

struct OtherNode {
    id: u64,
    members: u32,
    /// The number of messages that it has.
    given: u32,
    /// The number of messages that it may have. Its members decide it: the node returns what they do not take.
    limit: u32,
    /// It had no room, and has not said since that it may have some.
    is_full: bool,
    /// It has returned messages.
    has_returned: bool,
    /// The number of messages that are done since the limit has changed.
    done: u32,
    /// The number of requests without an answer.
    unanswered: u32,
}

impl OtherNode {
    fn has_room(&self) -> bool {
        !self.is_full && self.given < self.limit
    }
}

impl OtherNodes {
    fn node(&mut self, id: u64) -> Option<&mut OtherNode> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    pub(super) fn knows(&self, id: u64) -> bool {
        self.nodes.iter().any(|node| node.id == id)
    }

    /// The nodes whose members are known.
    pub(super) fn known(&self) -> impl Iterator<Item = u64> {
        self.nodes.iter().map(|node| node.id)
    }

    /// The number of members on these nodes.
    pub(super) fn members(&self) -> usize {
        self.nodes.iter().map(|node| node.members as usize).sum()
    }

    /// The node of the member with this index among the members on other nodes, the number of its members, and the number
    /// of those from this one on.
    pub(super) fn of_member(&self, mut index: usize) -> Option<(u64, usize, usize)> {
        for node in &self.nodes {
            let members = node.members as usize;
            match index.checked_sub(members) {
                None => return Some((node.id, members, members - index)),
                Some(rest) => index = rest,
            }
        }
        None
    }

    /// Records what a node says of its members; one of them may have room. Returns `true` if it has none.
    pub(super) fn set_members(&mut self, id: u64, members: u32) -> bool {
        if members == 0 {
            return true;
        }
        let limit = members.saturating_mul(FIRST_GIVEN).min(MOST_GIVEN);
        match self.node(id) {
            Some(node) => {
                if node.members != members {
                    (node.has_returned, node.limit) = (false, node.limit.max(limit));
                }
                (node.members, node.is_full) = (members, false);
            }
            None => self.nodes.push(OtherNode {
                id,
                members,
                given: 0,
                limit,
                is_full: false,
                has_returned: false,
                done: 0,
                unanswered: 0,
            }),
        }
        false
    }

    /// Forgets a node, and what it has not been told.
    pub(super) fn forget(&mut self, id: u64) {
        self.nodes.retain(|node| node.id != id);
        for (_, messages) in self.untold.extract_if(.., |(to, _)| *to == id) {
            self.untold_bytes = self.untold_bytes.saturating_sub(messages.iter().map(pushed_bytes).sum());
        }
    }

    /// Gives a message to a node, if it may have another one.
    pub(super) fn give(&mut self, id: u64, channel: &ChannelName, message: &LoggedPush) -> bool {
        let Some(node) = self.node(id).filter(|node| node.has_room()) else { return false };
        node.given += 1;
        let untold = self.untold_of(id);
        match untold.last_mut() {
            Some(ShareMessage::Give { channel: last, messages }) if last == channel => {
                messages.push(message.clone());
            }
            _ => {
                untold.push(ShareMessage::Give { channel: channel.clone(), messages: vec![message.clone()] })
            }
        }
        true
    }

    /// Sends these messages of a run to a node, without acknowledgement. Returns `false` if too many wait to be sent.
    pub(super) fn push(&mut self, id: u64, pushes: &Pushes, indexes: &[usize], limit: usize) -> bool {
        if self.untold_bytes > limit {
            return false;
        }
        let run = pushes.run().pick(indexes);
        let (channel, sender) = (pushes.channel().clone(), pushes.sender().cloned());
        let push = ShareMessage::Push { channel, sender, run };
        self.untold_bytes += pushed_bytes(&push);
        self.untold_of(id).push(push);
        true
    }

    /// A message that a node had is done.
    pub(super) fn is_done(&mut self, id: u64) {
        let Some(node) = self.node(id) else { return };
        node.given = node.given.saturating_sub(1);
        (node.is_full, node.done) = (false, node.done + 1);
        if !node.has_returned || node.done >= DONE_FOR_MORE {
            (node.limit, node.done) = ((node.limit + 1).min(MOST_GIVEN), 0);
        }
    }

    /// A node no longer has this number of messages.
    pub(super) fn is_taken_back(&mut self, id: u64, count: u32) {
        if let Some(node) = self.node(id) {
            node.given = node.given.saturating_sub(count);
        }
    }

    /// A node has returned messages: its members have no room for more than it has.
    pub(super) fn has_returned(&mut self, id: u64) {
        if let Some(node) = self.node(id) {
            (node.is_full, node.has_returned, node.done) = (true, true, 0);
            node.limit = node.given.max(1);
        }
    }

    /// A node has answered a request.
    pub(super) fn has_answered(&mut self, id: u64) {
        if let Some(node) = self.node(id) {
            node.unanswered = 0;
        }
    }

    /// Asks a node for messages that it has had for long. Returns `false` if it has not answered for too long.
    pub(super) fn ask(&mut self, id: u64, numbers: Vec<u64>) -> bool {
        let Some(node) = self.node(id) else { return false };
        if node.unanswered >= MOST_UNANSWERED {
            return false;
        }
        node.unanswered += 1;
        self.tell(id, ShareMessage::AreHeld(numbers));
        true
    }

    /// Tries the nodes again that had no room.
    pub(super) fn try_full_again(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.is_full = false);
    }

    /// Tells a node that its messages are done, or that no member takes them.
    pub(super) fn tell_number(&mut self, id: u64, number: u64, is_done: bool) {
        let untold = self.untold_of(id);
        match (untold.last_mut(), is_done) {
            (Some(ShareMessage::Done(numbers)), true) | (Some(ShareMessage::Returned(numbers)), false) => {
                numbers.push(number);
            }
            (_, true) => untold.push(ShareMessage::Done(vec![number])),
            (_, false) => untold.push(ShareMessage::Returned(vec![number])),
        }
    }

    pub(super) fn tell(&mut self, id: u64, message: ShareMessage) {
        self.untold_of(id).push(message);
    }

    /// Tells a node how many members are here.
    pub(super) fn tell_members(&mut self, id: u64, count: u32) {
        let knows_yours = self.knows(id);
        let untold = self.untold_of(id);
        // Many may join at the same time.
        untold.pop_if(|last| matches!(last, ShareMessage::Members { .. }));
        untold.push(ShareMessage::Members { count, knows_yours });
    }

    fn untold_of(&mut self, id: u64) -> &mut Vec<ShareMessage> {
        let at = self.untold.iter().position(|(to, _)| *to == id).unwrap_or_else(|| {
            self.untold.push((id, Vec::new()));
            self.untold.len() - 1
        });
        &mut self.untold[at].1
    }

    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Takes what other nodes must be told.
    pub(super) fn take_untold(&mut self) -> Vec<(u64, Vec<ShareMessage>)> {
        self.untold_bytes = 0;
        std::mem::take(&mut self.untold)
    }
}

/// The size of data without acknowledgement.
fn pushed_bytes(message: &ShareMessage) -> usize {
    match message {
        ShareMessage::Push { run: Run { pieces: Pieces { bytes, .. }, .. }, .. } => bytes.len(),
        _ => 0,
    }
}

/// The number of a message of a group, by which nodes name it.
pub(super) fn number_of(id: PushId) -> Option<u64> {
    match id {
        PushId::Memory { number, .. } => Some(number),
        PushId::Logged(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_served_by_one_node_and_few_move() {
        let nodes = [1, 2, 3];
        let channels: Vec<String> = (0..300).map(|number| format!("jobs/{number}")).collect();
        let views = |nodes: &[u64]| -> Vec<(u64, ShareNodes)> {
            let view = |me: u64| {
                let others = ShareNodes::default();
                for other in nodes.iter().filter(|other| **other != me) {
                    assert!(others.set(*other, true) && others.set(*other, true));
                }
                (me, others)
            };
            nodes.iter().map(|me| view(*me)).collect()
        };
        let serving = |nodes: &[u64], channel: &str| -> Vec<u64> {
            let views = views(nodes).into_iter();
            views
                .filter(|(me, view)| view.is_served_by(*me, "$share/g/#", channel))
                .map(|(me, _)| me)
                .collect()
        };
        let mut counts = [0; 3];
        for channel in &channels {
            let [node] = serving(&nodes, channel)[..] else { panic!("{channel}") };
            counts[node as usize - 1] += 1;
            // If node 3 ends, only its channels move.
            let after = serving(&nodes[..2], channel);
            assert!(after.len() == 1 && (node == 3 || after == [node]), "{channel}");
        }
        assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
        let alone = ShareNodes::default();
        assert!(alone.is_served_by(0, "$share/g/#", "a") && !alone.set(7, false));
    }
}
