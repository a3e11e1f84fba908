//! What several nodes have to agree on through the database they share: who serves which client, and
//! who tells of the end of a session (protocol.md 2.4, 2.16).
//!
//! A session has a row from before its `connAck` until its close notifier has run. Whoever runs that
//! notifier claims the row first, so it runs once, whichever node it was that ended the session.

use async_trait::async_trait;
use jmqt_core::ClientId;

use super::{ChannelKey, Seq, SessionRow, Store, StoreError};

/// A session's row, as nodes see each other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSession {
    /// The session. Its generation is higher than that of every session that was entered before.
    pub row: SessionRow,
    /// The node that runs its close notifier, once there is one.
    pub claimed_by: Option<String>,
}

/// A session that has been entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// Its generation.
    pub generation: u64,
    /// The client's other sessions that have not been closed, the oldest first.
    pub older: Vec<SharedSession>,
}

/// A node, as the others see it in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeBeat {
    /// Its id.
    pub node: String,
    /// Rises as long as it is there, and at no other time.
    pub beat: u64,
}

/// A [`Store`] that several nodes use at the same time.
///
/// As for [`Store`], `Ok` from a method that writes means committed, and `Err` that nothing of it has
/// happened or that it may be repeated.
#[async_trait]
pub trait ClusterStore: Store {
    /// Enters sessions that are about to begin, and gives each its generation (that of the rows is not
    /// looked at). Calls take turns, whatever node they come from: of two sessions of one client, the one
    /// with the higher generation is told of the other. No client comes twice in one call.
    async fn enter_sessions(&self, sessions: &[SessionRow]) -> Result<Vec<Entered>, StoreError>;

    /// The sessions of a client that have not been closed, the oldest first.
    async fn sessions_of(&self, client: &ClientId) -> Result<Vec<SharedSession>, StoreError>;

    /// Tells the nodes that serve these sessions to end them: for when they cannot be told in any
    /// other way. They see it in [`called_off`](Self::called_off).
    async fn call_off(&self, sessions: &[SessionRow]) -> Result<(), StoreError>;

    /// The sessions of `node` that others have called off or claimed.
    async fn called_off(&self, node: &str) -> Result<Vec<SharedSession>, StoreError>;

    /// Claims the close notifiers of sessions for the node `by`, and says of each whether it has them.
    /// It has not if the row is gone, or is claimed by somebody else than `claimed_by` says; what `by` has
    /// claimed before is its own. What is
    /// claimed by another node than serves it counts as [called off](Self::called_off).
    async fn claim_sessions(&self, sessions: &[SharedSession], by: &str) -> Result<Vec<bool>, StoreError>;

    /// Shows that `node` is there, and tells of all nodes that are not condemned, or that sessions' rows
    /// name. Those that were condemned have the beat they had then, and those that nothing but such rows
    /// know of have 0. `None`: `node` is condemned itself, and has not beaten. A node whose beat is 1, and that
    /// has beaten before, was condemned and then [forgotten](Self::forget_condemned).
    async fn beat(&self, node: &str) -> Result<Option<Vec<NodeBeat>>, StoreError>;

    /// Lets a node that was condemned, and perhaps forgotten, be one again, when it has ended all its sessions.
    /// Its beat goes on from `last_beat`, the last that it knows of.
    async fn readmit(&self, node: &str, last_beat: u64) -> Result<(), StoreError>;

    /// Forgets a node that ends, and does [`forget_condemned`](Self::forget_condemned).
    async fn leave(&self, node: &str) -> Result<(), StoreError>;

    /// Forgets the nodes that were condemned and of which no session is left. One that lives after all notices
    /// it by its beat, which begins anew.
    async fn forget_condemned(&self) -> Result<(), StoreError>;

    /// The sessions of other nodes that `by` has claimed, the oldest first.
    async fn claimed(&self, by: &str) -> Result<Vec<SharedSession>, StoreError>;

    /// Condemns the node `of`, which is dead, and claims for the node `by` the sessions that it served and
    /// nobody has claimed, and those it had claimed: at most `limit`. Returns them with their new claims, the
    /// oldest first. If the node's beat has risen above the one that is given it lives: it is not condemned
    /// for that, and unless somebody else has condemned it, nothing is claimed.
    async fn claim_sessions_of(
        &self,
        of: &NodeBeat,
        by: &str,
        limit: usize,
    ) -> Result<Vec<SharedSession>, StoreError>;

    /// The key that the nodes of this cluster have in common, and nobody else; made by the first that asks.
    async fn bus_key(&self) -> Result<[u8; 32], StoreError>;

    /// The last message logged in each of these channels, as far as they exist.
    async fn last_seqs(&self, channels: &[ChannelKey]) -> Result<Vec<(ChannelKey, Seq)>, StoreError>;
}
