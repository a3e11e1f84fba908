//! Publishes wills whose delays are over, and wills that connections, processes and nodes have left behind.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::context::Shared;
use crate::session::verbs;
use crate::store::SessionRow;

/// The interval for looking for wills that are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Publishes wills when they are due, until it is told to stop. In a cluster the first node does it for all.
pub(crate) async fn watch_wills(shared: Arc<Shared>, stop: CancellationToken) {
    let mut overdue = verbs::OverdueWills::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if shared.hub.is_first() {
            verbs::publish_due_wills(&shared, &mut overdue).await;
        }
    }
}

/// Ends the connection of a session that another process has left: its will is due.
pub(crate) async fn end_will_of(shared: &Shared, session: &SessionRow) {
    verbs::end_will(shared, &session.client, session.generation, &session.node, 0).await;
}
