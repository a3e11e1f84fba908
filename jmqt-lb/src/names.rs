//! Names of backends, and the addresses that they led to when they were last looked up.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use crate::backends::{Nodes, Wanted};
use crate::config::{BackendConfig, BackendName, Host, MappingConfig};

/// How long one lookup may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// What names led to when they were last looked up.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashMap<BackendName, Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    is_failing: bool,
}

impl Names {
    /// The backends of this configuration, by address, as far as they are known.
    pub(crate) fn wanted(&self, config: &MappingConfig, nodes: &Nodes) -> Vec<Wanted> {
        let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
        for BackendConfig { name, weight, node } in &config.backends {
            for address in self.addresses(name) {
                // Two names may have the same address, which counts once.
                if seen.insert(address) {
                    let load = nodes.load(node.as_deref(), address);
                    wanted.push(Wanted { name: name.to_string(), address, weight: *weight, load });
                }
            }
        }
        wanted
    }

    fn addresses(&self, name: &BackendName) -> Vec<SocketAddr> {
        match &name.host {
            Host::Address(address) => vec![SocketAddr::new(*address, name.port)],
            Host::Name(_) => self.known.get(name).map(|known| known.addresses.clone()).unwrap_or_default(),
        }
    }

    /// Looks all names up, at the same time, and calls `found` after each. A name that cannot be looked up
    /// keeps its addresses; that is logged once.
    pub(crate) async fn look_up(&mut self, config: &MappingConfig, mut found: impl FnMut(&Self)) {
        let names: HashSet<_> = config.backends.iter().map(|backend| &backend.name).collect();
        self.known.retain(|name, _| names.contains(name));
        let mut lookups = JoinSet::new();
        for BackendConfig { name, .. } in &config.backends {
            if let Host::Name(host) = name.host.clone() {
                let name = name.clone();
                lookups.spawn(async move {
                    let addresses = look_up(&host, name.port).await;
                    (name, addresses)
                });
            }
        }
        while let Some(done) = lookups.join_next().await {
            if let Ok((name, addresses)) = done {
                self.known.entry(name.clone()).or_default().enter(&name, addresses);
                found(self);
            }
        }
    }

    /// Whether this configuration leads to any backend.
    pub(crate) fn leads_anywhere(&self, config: &MappingConfig) -> bool {
        config.backends.iter().any(|BackendConfig { name, .. }| !self.addresses(name).is_empty())
    }

    /// Whether the address of a name of this configuration is unknown.
    pub(crate) fn is_missing_one(&self, config: &MappingConfig) -> bool {
        config.backends.iter().any(|BackendConfig { name, .. }| self.addresses(name).is_empty())
    }

    /// Adds the addresses that another lookup has found.
    pub(crate) fn learn(&mut self, other: Self) {
        for (name, known) in other.known {
            if !known.is_failing || !self.known.contains_key(&name) {
                self.known.insert(name, known);
            }
        }
    }
}

impl Known {
    fn enter(&mut self, name: &BackendName, found: io::Result<Vec<SocketAddr>>) {
        match found {
            Ok(addresses) => *self = Self { addresses, is_failing: false },
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let kept = self.addresses.len();
                    warn!(%name, %error, "Cannot look up a backend; using its last {kept} addresses");
                }
            }
        }
    }
}

async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let no_answer = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer");
    let found = timeout(LOOKUP_LIMIT, lookup_host((host, port))).await.map_err(no_answer)??;
    let mut addresses: Vec<_> = found.collect();
    addresses.sort_unstable(); // name servers rotate the order
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(backends: &str) -> MappingConfig {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("[mappings]\n8010 = {backends}\n")).unwrap();
        Config::load(file.path()).unwrap().mappings.remove(0)
    }

    fn addresses(names: &Names, config: &MappingConfig) -> Vec<String> {
        names.wanted(config, &Nodes::default()).iter().map(|wanted| wanted.address.to_string()).collect()
    }

    #[test]
    fn a_name_is_as_many_backends_as_it_has_addresses_and_follows_them() {
        let config = config("db:1 weight=3, 10.0.0.9:1");
        let name = &config.backends[0].name;
        let mut names = Names::default();
        assert_eq!(addresses(&names, &config), ["10.0.0.9:1"]);
        let found =
            |ends: &[u8]| Ok(ends.iter().map(|end| SocketAddr::from(([10, 0, 0, *end], 1))).collect());
        let mut enter = |found| names.known.entry(name.clone()).or_default().enter(name, found);
        enter(found(&[1, 2]));
        enter(found(&[2, 9])); // one of them is in the file already
        let wanted = names.wanted(&config, &Nodes::default());
        assert_eq!(wanted.iter().map(|wanted| wanted.weight).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(addresses(&names, &config), ["10.0.0.2:1", "10.0.0.9:1"]);
    }

    #[test]
    fn a_lookup_that_fails_changes_nothing() {
        let config = config("db:1");
        let name = &config.backends[0].name;
        let mut names = Names::default();
        let mut enter = |found| names.known.entry(name.clone()).or_default().enter(name, found);
        enter(Ok(vec![SocketAddr::from(([10, 0, 0, 1], 1))]));
        enter(Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(addresses(&names, &config), ["10.0.0.1:1"]);
    }
}
