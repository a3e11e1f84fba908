//! Names of backends to addresses, again and again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::backends::Wanted;
use crate::balancer::Shared;
use crate::config::{BackendConfig, Host, MappingConfig};
use crate::mapping::{self, Mapping};

/// How long one lookup may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// What names resolved to last.
#[derive(Default)]
pub(crate) struct Resolver {
    known: HashMap<String, Known>,
}

struct Known {
    addresses: Vec<SocketAddr>,
    is_failing: bool,
}

impl Resolver {
    /// The backends that this configuration asks for, by address. A name that cannot be looked up keeps
    /// the addresses it had; an operator hears of it once.
    pub(crate) async fn resolve(&mut self, config: &MappingConfig) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for backend in &config.backends {
            let name = backend.name.to_string();
            for address in self.addresses(backend, &name).await {
                // Two names may lead to one place, which counts once.
                if !wanted.iter().any(|other| other.address == address) {
                    wanted.push(Wanted { name: name.clone(), address, weight: backend.weight });
                }
            }
        }
        let is_asked_for =
            |name: &String| config.backends.iter().any(|backend| backend.name.to_string() == *name);
        self.known.retain(|name, _| is_asked_for(name));
        wanted
    }

    async fn addresses(&mut self, backend: &BackendConfig, name: &str) -> Vec<SocketAddr> {
        let host = match &backend.name.host {
            Host::Address(address) => return vec![SocketAddr::new(*address, backend.name.port)],
            Host::Name(host) => host,
        };
        let known = self
            .known
            .entry(name.to_owned())
            .or_insert_with(|| Known { addresses: Vec::new(), is_failing: false });
        let reason = match timeout(LOOKUP_LIMIT, lookup_host((host.as_str(), backend.name.port))).await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<_> = found.collect();
                addresses.sort_unstable(); // name servers turn the order round
                addresses.dedup();
                *known = Known { addresses, is_failing: false };
                return known.addresses.clone();
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if !std::mem::replace(&mut known.is_failing, true) {
            let kept = known.addresses.len();
            warn!(%name, %reason, "Cannot look up a backend; it keeps {kept} addresses");
        }
        known.addresses.clone()
    }
}

/// Looks names up until it is aborted.
pub(crate) async fn run(mapping: Arc<Mapping>, shared: Arc<Shared>, mut resolver: Resolver) {
    loop {
        let config = mapping.config();
        let wanted = resolver.resolve(&config).await;
        // A configuration that was replaced meanwhile is looked up next.
        if Arc::ptr_eq(&config, &mapping.config()) {
            mapping.set.replace(&wanted);
            mapping.resolved.notify_waiters();
        } else {
            continue;
        }
        let interval = shared.options().resolve_interval;
        tokio::select! {
            () = sleep(interval) => {}
            () = mapping.reconfigured.notified() => {}
        }
    }
}

/// Why a mapping cannot begin.
pub(crate) fn nothing_resolved(config: &MappingConfig) -> String {
    let names: Vec<_> = config.backends.iter().map(|backend| backend.name.to_string()).collect();
    format!("no backend of {} has an address: {}", mapping::name(config.listen), names.join(", "))
}
