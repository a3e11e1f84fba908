//! A message that nobody takes, and that holds up the acknowledgements of others.

use std::time::Duration;

use tokio::time::Instant;

use super::received::Oldest;

/// How long it may wait before that is told.
const PATIENCE: Duration = Duration::from_secs(30);
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The oldest message that the application has yet to take.
#[derive(Debug, Default)]
pub(crate) struct Untaken {
    serial: u64,
    since: Option<Instant>,
    told: Option<Instant>,
}

impl Untaken {
    /// Its topic, if it is time to tell of it. One that was read and is not acknowledged is in use, which is told only if
    /// others wait for it.
    pub(crate) fn look(
        &mut self,
        oldest: Option<Oldest<'_>>,
        is_unread: impl FnOnce(u64) -> bool,
    ) -> Option<String> {
        let Some(oldest) = oldest else {
            self.since = None;
            return None;
        };
        let now = Instant::now();
        if oldest.serial != self.serial || self.since.is_none() {
            (self.serial, self.since) = (oldest.serial, Some(now));
        }
        let has_waited = self.since.is_some_and(|since| now - since >= PATIENCE);
        if !has_waited || self.told.is_some_and(|told| now - told < TOLD_EVERY) {
            return None;
        }
        if oldest.held == 0 && !is_unread(oldest.serial) {
            return None;
        }
        self.told = Some(now);
        Some(oldest.topic.to_owned())
    }
}
