//! Notifies the application of stored messages, one after the other.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::context::Shared;
use crate::hub::Stored;
use crate::validators::{Asked, StoredNotice, StoredNotifier, asking, let_go, poll_guarded};

/// Runs until `stop` is cancelled, then notifies of the queued messages.
pub(super) async fn tell(
    shared: Arc<Shared>,
    notifier: Arc<dyn StoredNotifier>,
    mut messages: mpsc::Receiver<Stored>,
    stop: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            biased;
            () = stop.cancelled(), if !messages.is_closed() => {
                messages.close();
                continue;
            }
            message = messages.recv() => message,
        };
        let Some(message) = message else { return };
        let json = message.data.json();
        let notice = StoredNotice::new(
            &message.channel,
            message.sender.as_ref(),
            json.to_payload(),
            message.retain,
            &shared.handle,
        );
        let mut question = asking(|| notifier.on_stored(&notice));
        let guarded = poll_fn(|cx| poll_guarded(&mut question, cx));
        let asked = timeout(shared.limits.validator_timeout, guarded).await.unwrap_or(Asked::TimedOut);
        let_go("stored notifier", question);
        let publisher = message.sender.as_ref().map_or("", |client| client.as_str());
        if asked.logged("stored notifier", publisher, None).is_none() {
            shared.hub.counters.validator_failures.increment();
        }
    }
}
