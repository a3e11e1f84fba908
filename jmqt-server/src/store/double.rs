//! A scripted store for tests.

use std::time::SystemTime;

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};

use super::{
    ChannelKey, CursorUpdate, Due, Epoch, Exchanges, Expired, Forgotten, IsAway, LogPart, Operation, Outcome,
    PendingLimits, Retained, Sent, Seq, SessionRow, Store, StoreError, StoredFilter, StoredSession,
    StoredSubscription, StoredTotals, StoredWill, Swept, Unanswered, UnderPrefix,
};

type Answers<Asked, T> = Box<dyn Fn(&[Asked]) -> Result<T, StoreError> + Send + Sync>;
type Answer<Asked, T> = Box<dyn Fn(Asked) -> Result<T, StoreError> + Send + Sync>;

/// The answers of the store. All other methods succeed and do nothing.
pub(crate) struct Double {
    pub(crate) commit: Answers<Operation, Vec<Outcome>>,
    /// Asked for a log behind a place.
    pub(crate) read_log: Answer<(ChannelKey, Seq), LogPart>,
    /// Of any channel.
    pub(crate) read_retained: Answer<(), Option<Retained>>,
    pub(crate) save_cursors: Answers<CursorUpdate, ()>,
}

impl Default for Double {
    fn default() -> Self {
        Self {
            commit: Box::new(|batch| Ok(batch.iter().map(|_| Outcome::Appended(None)).collect())),
            read_log: Box::new(|_| Ok(LogPart::default())),
            read_retained: Box::new(|()| Ok(None)),
            save_cursors: Box::new(|_| Ok(())),
        }
    }
}

#[async_trait]
impl Store for Double {
    fn epoch(&self) -> Epoch {
        Epoch(0)
    }

    async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
        tokio::task::yield_now().await; // others submit meanwhile
        (self.commit)(batch)
    }

    async fn session(&self, _: &ClientId) -> Result<Option<StoredSession>, StoreError> {
        Ok(None)
    }

    async fn session_owner(&self, _: &ClientId) -> Result<Option<Box<str>>, StoreError> {
        Ok(None)
    }

    async fn uncheck_sessions(&self, _: Option<&ClientId>) -> Result<Option<ClientId>, StoreError> {
        Ok(None)
    }

    async fn subscriptions(&self, _: &ClientId) -> Result<Vec<StoredSubscription>, StoreError> {
        Ok(Vec::new())
    }

    async fn exchanges(&self, _: &ClientId) -> Result<Exchanges, StoreError> {
        Ok(Exchanges::default())
    }

    async fn subscription(
        &self,
        _: &ClientId,
        _: &ChannelName,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        Ok(None)
    }

    async fn has_group(&self, _: &ClientId) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn filters(&self, _: &ClientId) -> Result<Vec<StoredFilter>, StoreError> {
        Ok(Vec::new())
    }

    fn may_have_retained(&self, _: &ChannelName) -> bool {
        true
    }

    async fn read_retained(&self, _: &ChannelName) -> Result<Option<Retained>, StoreError> {
        (self.read_retained)(())
    }

    async fn retained_under(&self, _: &str, _: Option<&ChannelName>) -> Result<Vec<UnderPrefix>, StoreError> {
        Ok(Vec::new())
    }

    async fn read_log(&self, key: ChannelKey, after: Seq, _: usize, _: usize) -> Result<LogPart, StoreError> {
        (self.read_log)((key, after))
    }

    async fn save_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
        (self.save_cursors)(updates)
    }

    async fn forget_sent(&self, _: &[Sent]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn trim(&self, _: &[ChannelKey]) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn sessions_opened(&self, _: &[SessionRow]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn sessions_closed(&self, _: &[(ClientId, u64)], _: &str, _: Unanswered) -> Result<(), StoreError> {
        Ok(())
    }

    async fn end_wills(&self, _: &[(ClientId, u64)], _: &str, _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    async fn delete_wills(&self, _: &[(ClientId, u64)], _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn due_wills(
        &self,
        _: Option<&ClientId>,
        _: SystemTime,
        _: usize,
    ) -> Result<Vec<StoredWill>, StoreError> {
        Ok(Vec::new())
    }

    async fn claim_orphans(&self, _: &str) -> Result<Vec<SessionRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn orphan_closed(&self, _: &SessionRow) -> Result<(), StoreError> {
        Ok(())
    }

    async fn expire(&self, _: Due, _: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError> {
        Ok(Vec::new())
    }

    async fn limit_pending(&self, _: PendingLimits, _: Option<&ClientId>) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    async fn forget_publishers(&self, _: SystemTime) -> Result<Forgotten, StoreError> {
        Ok(Forgotten { publishers: 0, is_round_complete: true })
    }

    async fn expired_retained(&self, _: SystemTime) -> Result<Vec<ChannelName>, StoreError> {
        Ok(Vec::new())
    }

    async fn totals(&self) -> Result<StoredTotals, StoreError> {
        Ok(StoredTotals::default())
    }

    async fn close(&self) {}
}
