//! The part of [`Store`](super::Store) that is the same for all databases.

/// Implements [`Store`](super::Store) for a database: with these methods, which call what a file of the database has, and with
/// the given methods, in which the databases differ.
macro_rules! implement_store {
    ($database:ty { $($own:tt)* }) => {
        #[async_trait]
        impl Store for $database {
            fn epoch(&self) -> Epoch {
                self.epoch
            }

            async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
                self.commit_batch(batch).await
            }

            async fn session(&self, client: &ClientId) -> Result<Option<StoredSession>, StoreError> {
                self.read_session(client).await
            }

            async fn session_owner(&self, client: &ClientId) -> Result<Option<Box<str>>, StoreError> {
                self.read_owner(client).await
            }

            async fn uncheck_sessions(
                &self,
                after: Option<&ClientId>,
            ) -> Result<Option<ClientId>, StoreError> {
                self.uncheck_some(after).await
            }

            async fn subscriptions(&self, client: &ClientId) -> Result<Vec<StoredSubscription>, StoreError> {
                self.read_subscriptions(client).await
            }

            async fn exchanges(&self, client: &ClientId) -> Result<Exchanges, StoreError> {
                self.read_exchanges(client).await
            }

            async fn subscription(
                &self,
                client: &ClientId,
                channel: &ChannelName,
            ) -> Result<Option<StoredSubscription>, StoreError> {
                self.read_subscription(client, channel).await
            }

            async fn has_group(&self, owner: &ClientId) -> Result<bool, StoreError> {
                self.find_group(owner).await
            }

            async fn filters(&self, client: &ClientId) -> Result<Vec<StoredFilter>, StoreError> {
                self.read_filters(client).await
            }

            async fn save_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
                self.write_cursors(updates).await
            }

            async fn forget_sent(&self, complete: &[Sent]) -> Result<(), StoreError> {
                self.forget_complete(complete).await
            }

            async fn trim(&self, channels: &[ChannelKey]) -> Result<u64, StoreError> {
                self.trim_channels(channels).await
            }

            async fn sessions_opened(&self, sessions: &[SessionRow]) -> Result<(), StoreError> {
                self.add_sessions(sessions).await
            }

            async fn sessions_closed(
                &self,
                sessions: &[(ClientId, u64)],
                node: &str,
                unanswered: Unanswered,
            ) -> Result<(), StoreError> {
                self.remove_sessions(sessions, node, unanswered).await
            }

            async fn end_wills(
                &self,
                sessions: &[(ClientId, u64)],
                node: &str,
                at_least: u32,
            ) -> Result<(), StoreError> {
                self.write_ended_wills(sessions, node, at_least).await
            }

            async fn delete_wills(&self, sessions: &[(ClientId, u64)], node: &str) -> Result<(), StoreError> {
                self.remove_wills(sessions, node).await
            }

            async fn due_wills(
                &self,
                of: Option<&ClientId>,
                now: SystemTime,
                skip: usize,
            ) -> Result<Vec<StoredWill>, StoreError> {
                self.read_due_wills(of, now, skip).await
            }

            async fn orphan_closed(&self, session: &SessionRow) -> Result<(), StoreError> {
                let named = [(session.client.clone(), session.generation)];
                self.remove_sessions(&named, &session.node, Unanswered::Unknown).await
            }

            async fn expire(&self, due: Due, is_away: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError> {
                self.expire_clients(due, is_away).await
            }

            async fn forget_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError> {
                self.forget_some_publishers(now).await
            }

            async fn expired_retained(&self, now: SystemTime) -> Result<Vec<ChannelName>, StoreError> {
                self.read_expired_retained(now).await
            }

            async fn totals(&self) -> Result<StoredTotals, StoreError> {
                self.read_totals().await
            }

            $($own)*
        }
    };
}

pub(super) use implement_store;
