//! The task that looks the backends of a mapping up, again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::backends::Nodes;
use crate::config::MappingConfig;
use crate::mapping::{self, Mapping};
use crate::names::Names;
use crate::shared::Shared;

/// When a name without an address is looked up again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Looks names up until it is aborted.
pub(crate) async fn run(mapping: Arc<Mapping>, shared: Arc<Shared>) {
    let mut names = Names::default();
    loop {
        let (config, found_before) = mapping.take_over();
        names.learn(found_before);
        // What is known need not wait for what has to be looked up.
        enter(&mapping, &config, &names, &shared.nodes);
        names.look_up(&config, |names| enter(&mapping, &config, names, &shared.nodes)).await;
        if !Arc::ptr_eq(&config, &mapping.config()) {
            continue; // replaced meanwhile
        }
        let mut interval = shared.options().resolve_interval;
        if names.is_missing_one(&config) {
            interval = interval.min(RETRY_INTERVAL);
        }
        tokio::select! {
            () = sleep(interval) => {}
            () = mapping.reconfigured.notified() => {}
        }
    }
}

/// Makes the known addresses the backends. If none is known, the old ones stay.
fn enter(mapping: &Mapping, config: &Arc<MappingConfig>, names: &Names, nodes: &Nodes) {
    let wanted = names.wanted(config, nodes);
    if !wanted.is_empty() && Arc::ptr_eq(config, &mapping.config()) {
        mapping.set.replace(&wanted);
        mapping.resolved.notify_waiters();
    }
}

/// The error for a mapping whose backends have no address.
pub(crate) fn nothing_resolved(config: &MappingConfig) -> String {
    let backends: Vec<_> = config.backends.iter().map(|backend| backend.name.to_string()).collect();
    format!("no backend of {} has an address: {}", mapping::name(config.listen), backends.join(", "))
}
