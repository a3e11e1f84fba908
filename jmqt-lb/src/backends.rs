//! The set of backends of one mapping: who is in it, who is fit, who has how many connections.
//!
//! A [`Backend`] is one address; a name with several addresses is several backends. Reloads and lookups
//! replace the members, and what is known of those that stay is kept. Not here: the choice itself
//! (`balance`), what fitness is made of (`health`), who asks and checks (`client`, `checker`).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::balance::{self, Candidate};
use crate::config::Rules;
use crate::connect_time::ConnectTime;
use crate::health::{Change, Health};
use crate::slow_start::SlowStart;

/// One address of a backend.
#[derive(Debug)]
pub(crate) struct Backend {
    /// `host:port` as written in the file.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Current connections to this address, under any of its names.
    active: Arc<AtomicUsize>,
    /// Current connections to the server that the backend belongs to, through all mappings.
    load: Arc<AtomicUsize>,
    /// Failed connections in a row.
    failures: AtomicU32,
    pub(crate) connect_time: ConnectTime,
    pub(crate) counters: BackendCounters,
}

/// Counts since the backend was first seen.
#[derive(Debug, Default)]
pub(crate) struct BackendCounters {
    pub(crate) connections: AtomicU64,
    /// Attempts that were repeated because there was no answer for longer than usual.
    pub(crate) repeated: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) bytes_to: Bytes,
    pub(crate) bytes_from: Bytes,
}

/// A count that threads add to for every message, each in a cache line of its own.
#[derive(Debug, Default)]
pub(crate) struct Bytes([Shard; SHARDS]);

/// Beyond this number, threads share a counter.
const SHARDS: usize = 8;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

impl Bytes {
    pub(crate) fn add(&self, bytes: u64) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static SHARD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        self.0[SHARD.with(|shard| *shard)].0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

impl Backend {
    fn new(wanted: &Wanted, counts: &HashMap<SocketAddr, Arc<AtomicUsize>>) -> Self {
        Self {
            name: wanted.name.clone(),
            address: wanted.address,
            active: counts.get(&wanted.address).map(Arc::clone).unwrap_or_default(),
            load: Arc::clone(&wanted.load),
            failures: AtomicU32::new(0),
            connect_time: ConnectTime::default(),
            counters: BackendCounters::default(),
        }
    }

    /// Connections now.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// It served a client: earlier failures no longer count.
    pub(crate) fn worked(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}

/// A backend according to the file and the last lookup.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) weight: u32,
    /// Connections of the server that it belongs to.
    pub(crate) load: Arc<AtomicUsize>,
}

/// The total connections of servers that have several addresses or are in several mappings.
#[derive(Debug, Default)]
pub(crate) struct Nodes(Mutex<HashMap<Node, Weak<AtomicUsize>>>);

/// The name that the file gives it, its address, and its port if it has no name.
type Node = (Option<String>, IpAddr, u16);

impl Nodes {
    /// The count of the server that has this address. A `node` with several addresses is as many servers; without a
    /// `node` every port is a server of its own.
    pub(crate) fn load(&self, node: Option<&str>, address: SocketAddr) -> Arc<AtomicUsize> {
        let port = if node.is_some() { 0 } else { address.port() };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((node.map(str::to_owned), address.ip(), port)).or_default();
        if let Some(count) = count.upgrade() {
            return count;
        }
        let fresh = Arc::new(AtomicUsize::new(0));
        *count = Arc::downgrade(&fresh);
        counts.retain(|_, count| count.strong_count() > 0);
        fresh
    }
}

/// The backends of one mapping.
#[derive(Debug)]
pub(crate) struct Set {
    /// The listener's address, for the log.
    mapping: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    members: Vec<Member>,
    /// Removed members that still have connections: they are shown until those have ended, and their counts continue if
    /// they come back.
    former: Vec<Arc<Backend>>,
    rotation: usize,
}

#[derive(Debug)]
struct Member {
    backend: Arc<Backend>,
    weight: u32,
    turn: i64,
    health: Health,
    slow_start: SlowStart,
}

/// A connection's place at a backend; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) backend: Arc<Backend>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.active.fetch_sub(1, Ordering::Relaxed);
        self.backend.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A backend as the status page shows it.
pub(crate) struct View {
    pub(crate) backend: Arc<Backend>,
    /// `None` if it was removed, and only serves the connections that it has.
    pub(crate) member: Option<MemberView>,
}

pub(crate) struct MemberView {
    pub(crate) weight: u32,
    pub(crate) is_up: bool,
    pub(crate) is_ejected: bool,
}

impl Set {
    pub(crate) fn new(mapping: String) -> Self {
        Self { mapping, inner: Mutex::default() }
    }

    /// No code under the lock panics half way, so the state after a panic is consistent.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the members. Backends that were members before keep their state and counters.
    pub(crate) fn replace(&self, wanted: &[Wanted]) {
        let mut inner = self.lock();
        let is_first = inner.members.is_empty();
        let key = |backend: &Backend| (backend.address, backend.name.clone());
        let mut old: HashMap<_, _> =
            inner.members.drain(..).map(|member| (key(&member.backend), member)).collect();
        let mut former: HashMap<_, _> = inner.former.drain(..).map(|gone| (key(&gone), gone)).collect();
        let counts: HashMap<_, _> = (old.values().map(|member| &member.backend).chain(former.values()))
            .map(|backend| (backend.address, Arc::clone(&backend.active)))
            .collect();
        for wanted in wanted {
            let key = (wanted.address, wanted.name.clone());
            let member = match old.remove(&key) {
                Some(member) => Member { weight: wanted.weight, ..member },
                None => {
                    let known =
                        former.remove(&key).filter(|backend| Arc::ptr_eq(&backend.load, &wanted.load));
                    let backend = known.unwrap_or_else(|| Arc::new(Backend::new(wanted, &counts)));
                    info!("Backend added mapping={} backend={}", self.mapping, label(&backend));
                    // If all begin at the same time, none needs a slow start.
                    let slow_start = if is_first { SlowStart::default() } else { SlowStart::now() };
                    Member { backend, weight: wanted.weight, turn: 0, health: Health::new(), slow_start }
                }
            };
            inner.members.push(member);
        }
        for member in old.into_values() {
            info!("Backend removed mapping={} backend={}", self.mapping, label(&member.backend));
            former.insert(key(&member.backend), member.backend);
        }
        // An address that is still a member under another name has its connections there.
        let addresses: HashSet<_> = wanted.iter().map(|wanted| wanted.address).collect();
        inner.former = former.into_values().collect();
        inner.former.retain(|gone| gone.active() > 0 && !addresses.contains(&gone.address));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    /// Chooses a backend that is not among `tried`, and counts the connection as its own.
    ///
    /// If no backend is fit, all count as fit: an unlikely success is better than a certain refusal. The same holds for a
    /// client that has tried all fit backends without success.
    pub(crate) fn choose(&self, rules: &Rules, client: IpAddr, tried: &[SocketAddr]) -> Option<Lease> {
        let now = Instant::now();
        let mut inner = self.lock();
        let Inner { members, rotation, .. } = &mut *inner;
        for member in members.iter_mut() {
            if member.health.returns(now) {
                member.slow_start = SlowStart::now();
                info!(
                    "Backend accepted again after ejection mapping={} backend={}",
                    self.mapping,
                    label(&member.backend)
                );
            }
        }
        let is_untried = |member: &Member| !tried.contains(&member.backend.address);
        let any_fit = members.iter().any(|member| is_untried(member) && member.health.is_fit(now));
        let may = |member: &Member| is_untried(member) && (!any_fit || member.health.is_fit(now));
        let total = members.iter().filter(|member| may(member)).map(|member| member.weight).sum();
        let mut is_spared = Vec::new();
        for member in members.iter_mut() {
            let share = f64::from(member.weight) / f64::from(u32::max(total, 1));
            is_spared.push(may(member) && member.slow_start.spares(share, rules.slow_start, now));
        }
        let all_spared = members.iter().zip(&is_spared).all(|(member, is_spared)| *is_spared || !may(member));
        let (indexes, mut candidates): (Vec<_>, Vec<_>) = members
            .iter_mut()
            .enumerate()
            .filter(|(index, member)| may(member) && (all_spared || !is_spared[*index]))
            .map(|(index, member)| (index, member.candidate()))
            .unzip();
        let chosen = balance::choose(rules.balance, &mut candidates, client, rotation)?;
        let member = &mut members[indexes[chosen]];
        member.slow_start.chosen();
        let backend = Arc::clone(&member.backend);
        backend.active.fetch_add(1, Ordering::Relaxed);
        backend.load.fetch_add(1, Ordering::Relaxed);
        backend.counters.connections.fetch_add(1, Ordering::Relaxed);
        Some(Lease { backend })
    }

    /// Enters that a connection to this backend failed, and ejects it if that was once too often and
    /// another one is fit.
    pub(crate) fn failed(&self, backend: &Arc<Backend>, rules: &Rules) {
        backend.counters.failures.fetch_add(1, Ordering::Relaxed);
        let failures = backend.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if rules.eject_after == 0 || failures < rules.eject_after {
            return;
        }
        let now = Instant::now();
        let mut inner = self.lock();
        let is_it = |member: &Member| Arc::ptr_eq(&member.backend, backend);
        if !inner.members.iter().any(|member| !is_it(member) && member.health.is_fit(now)) {
            return;
        }
        let it = inner.members.iter_mut().find(|member| is_it(member));
        let Some(member) = it.filter(|member| !member.health.is_ejected(now)) else { return };
        member.health.eject(now + rules.eject_time);
        backend.counters.ejections.fetch_add(1, Ordering::Relaxed);
        warn!(
            "Backend ejected for {} s after {failures} failed connections in a row mapping={} backend={}",
            rules.eject_time.as_secs_f64(),
            self.mapping,
            label(backend),
        );
    }

    /// Enters the result of a health check.
    pub(crate) fn checked(&self, backend: &Arc<Backend>, result: Result<(), String>, rules: &Rules) {
        let mut inner = self.lock();
        let it = inner.members.iter_mut().find(|member| Arc::ptr_eq(&member.backend, backend));
        let Some(member) = it else { return };
        match (member.health.checked(result.is_ok(), rules), result) {
            (Some(Change::Down), Err(reason)) => {
                warn!("Backend is down mapping={} backend={} reason={reason:?}", self.mapping, label(backend))
            }
            (Some(_), _) => {
                member.slow_start = SlowStart::now();
                info!("Backend is up mapping={} backend={}", self.mapping, label(backend));
            }
            (None, _) => {}
        }
    }

    /// Marks all as up: there are no more checks.
    pub(crate) fn unchecked(&self) {
        self.lock().members.iter_mut().for_each(|member| member.health.unchecked());
    }

    pub(crate) fn backends(&self) -> Vec<Arc<Backend>> {
        self.lock().members.iter().map(|member| Arc::clone(&member.backend)).collect()
    }

    pub(crate) fn views(&self) -> Vec<View> {
        let now = Instant::now();
        let view = |member: &Member| View {
            backend: Arc::clone(&member.backend),
            member: Some(MemberView {
                weight: member.weight,
                is_up: member.health.is_up(),
                is_ejected: member.health.is_ejected(now),
            }),
        };
        let mut inner = self.lock();
        inner.former.retain(|backend| backend.active() > 0);
        let former = inner.former.iter().map(|backend| View { backend: Arc::clone(backend), member: None });
        inner.members.iter().map(view).chain(former).collect()
    }
}

impl Member {
    fn candidate(&mut self) -> Candidate<'_> {
        Candidate {
            address: self.backend.address,
            weight: self.weight,
            active: self.backend.load.load(Ordering::Relaxed),
            turn: &mut self.turn,
        }
    }
}

/// The name, followed by the address if that is different.
pub(crate) fn label(backend: &Backend) -> String {
    let address = backend.address.to_string();
    if backend.name == address { address } else { format!("{}({address})", backend.name) }
}
