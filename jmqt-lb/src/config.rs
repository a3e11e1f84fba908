//! `load_balancer.conf`, checked: what the balancer needs to know before it starts, or goes on after
//! a reload.
//!
//! All problems of a file are found in one go, each with its line. Not here: cutting a file into lines
//! and sections (`lines`), single values (`values`), opening what the values name.
//! `docs/load-balancer.md` is the same for operators.

mod conflicts;
mod error;
mod lines;
mod values;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use jmqt_log::{LogConfig, LogMode};

use conflicts::Listening;
pub(crate) use error::ConfigError;
use error::Problem;
use lines::{Entry, Section, Title};
pub(crate) use values::{BackendName, Host};
use values::{Choice, Number, Seconds, Switch, Value};

const DAY: f64 = 86_400.0;

/// A checked file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) options: Options,
    pub(crate) mappings: Vec<MappingConfig>,
}

/// What holds for the whole process: section `[options]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// Bytes of the buffer that all connections of a thread share, which is also the most that is kept
    /// for a connection and direction whose receiver does not keep up.
    pub(crate) buffer_size: usize,
    /// Whether every mapping must have an address before the balancer listens.
    pub(crate) pre_resolve: bool,
    /// How often names are looked up again.
    pub(crate) resolve_interval: Duration,
    /// Threads that forward; 0 for one per processor.
    pub(crate) threads: usize,
    /// Connections at once, over all mappings.
    pub(crate) max_connections: usize,
    /// Where the status page is; `None` for nowhere.
    pub(crate) status_address: Option<SocketAddr>,
    /// How long a stopping balancer waits for its connections.
    pub(crate) drain: Duration,
    pub(crate) log: LogConfig,
}

/// One line of `[mappings]`, with what holds for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MappingConfig {
    /// The address to listen on; port 0 is any free one.
    pub(crate) listen: SocketAddr,
    pub(crate) backends: Vec<BackendConfig>,
    pub(crate) rules: Rules,
    /// Connections at once through this mapping; `None` for no limit of its own.
    pub(crate) max_connections: Option<usize>,
}

/// One `host:port weight=N node=NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendConfig {
    pub(crate) name: BackendName,
    pub(crate) weight: u32,
    /// What backends of several mappings have in common that are one server; `None`: this address alone.
    pub(crate) node: Option<String>,
}

/// What may be said in `[options]` for all mappings, and in `[mapping ADDRESS]` for one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    pub(crate) balance: Balance,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// How many further backends are tried for one connection.
    pub(crate) retries: usize,
    /// Time between two health checks of a backend; zero for none.
    pub(crate) check_interval: Duration,
    pub(crate) check_timeout: Duration,
    /// Good checks in a row that bring a backend up, and bad ones that take it down.
    pub(crate) healthy_after: u32,
    pub(crate) unhealthy_after: u32,
    /// Failed connections in a row that eject a backend; 0 for never.
    pub(crate) eject_after: u32,
    pub(crate) eject_time: Duration,
    /// How long a backend that comes or comes back gets less than others; zero for not at all.
    pub(crate) slow_start: Duration,
    /// Where backends say over HTTP whether they are ready; 0 for nowhere.
    pub(crate) check_http_port: u16,
    pub(crate) check_http_path: String,
}

/// How a backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Balance {
    LeastConnections,
    RoundRobin,
    SourceHash,
}

/// Whether backends are told who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyProtocol {
    Off,
    V2,
}

const BALANCES: Choice<Balance> = Choice(&[
    ("least_connections", Balance::LeastConnections),
    ("round_robin", Balance::RoundRobin),
    ("source_hash", Balance::SourceHash),
]);
const PROXY_PROTOCOLS: Choice<ProxyProtocol> =
    Choice(&[("off", ProxyProtocol::Off), ("v2", ProxyProtocol::V2)]);
const LOG_MODES: Choice<LogMode> = Choice(&[
    ("DBG", LogMode::Debug),
    ("INF", LogMode::Info),
    ("WRN", LogMode::Warning),
    ("ERR", LogMode::Error),
    ("DISABLED", LogMode::Disabled),
]);

const OPTION_KEYS: [&str; 9] = [
    "buffer_size",
    "pre_resolve_workers",
    "resolve_seconds",
    "threads",
    "max_connections",
    "status_address",
    "drain_seconds",
    "log_path",
    "log_mode",
];
/// Keys of `[options]` that `[mapping ADDRESS]` may have too.
const RULE_KEYS: [&str; 14] = [
    "balance",
    "proxy_protocol",
    "connect_timeout_seconds",
    "idle_timeout_seconds",
    "retries",
    "health_check_seconds",
    "health_check_timeout_seconds",
    "healthy_after",
    "unhealthy_after",
    "eject_after",
    "eject_seconds",
    "slow_start_seconds",
    "health_check_http_port",
    "health_check_http_path",
];

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong on which lines. Show it; stop, or keep what was there before.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|problems| ConfigError::Wrong { path: path.to_owned(), problems })
    }

    fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let config = Self::read(&lines::sections(text, &mut problems), &mut problems);
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by_key(|problem| problem.line);
        Err(problems)
    }

    fn read(sections: &[Section<'_>], problems: &mut Vec<Problem>) -> Self {
        let of = |title: Title<'static>| {
            let section = sections.iter().find(|section| section.title == title);
            section.map(|section| section.entries.as_slice()).unwrap_or_default()
        };
        let keys = OPTION_KEYS.iter().chain(&RULE_KEYS).copied().collect();
        let mut settings = Settings { entries: of(Title::Options), keys, problems };
        settings.refuse_unknown();
        let options = Options::read(&mut settings);
        let rules = Rules::default().overridden(&mut settings);
        let (mut mappings, mut listening) = (Vec::new(), Vec::new());
        for Entry { line, key, value } in of(Title::Options) {
            match (*key, values::address(value)) {
                ("status_address", Some(address)) => listening.push(Listening { line: *line, key, address }),
                ("log_path", _) => {
                    let problem = conflicts::log_path(Path::new(value));
                    problems.extend(problem.map(|problem| Problem::new(*line, key, problem)));
                }
                _ => {}
            }
        }
        for entry in of(Title::Mappings) {
            if let Some(mapping) = mapping(entry, &rules, problems) {
                listening.push(Listening { line: entry.line, key: entry.key, address: mapping.listen });
                mappings.push(mapping);
            }
        }
        conflicts::overlapping(&listening, problems);
        if mappings.is_empty() && problems.is_empty() {
            let problem = "there is nothing to listen on: give a line `[addr:]port = host:port,host:port`";
            problems.push(Problem::new(0, "[mappings]", problem));
        }
        for section in sections {
            let Title::Mapping(address) = section.title else { continue };
            override_mapping(section, address, &mut mappings, problems);
        }
        Self { options, mappings }
    }
}

impl Options {
    fn read(settings: &mut Settings<'_, '_>) -> Self {
        Self {
            buffer_size: settings.value("buffer_size", 262_144, &Number("bytes", 1024..=16 << 20)),
            pre_resolve: settings.value("pre_resolve_workers", true, &Switch),
            resolve_interval: settings.value("resolve_seconds", seconds(30), &Seconds(0.05..=DAY)),
            threads: settings.value("threads", 0, &Number("threads", 0..=256)),
            max_connections: settings.value(
                "max_connections",
                100_000,
                &Number("connections", 1..=10_000_000),
            ),
            status_address: settings.value("status_address", None, &values::OptionalAddress),
            drain: settings.value("drain_seconds", seconds(30), &Seconds(0.0..=3600.0)),
            log: LogConfig::new(
                settings.value("log_mode", LogMode::Info, &LOG_MODES),
                settings.value("log_path", None, &values::OptionalPath),
            ),
        }
    }
}

impl Rules {
    /// These rules, except for what the section says otherwise.
    fn overridden(&self, settings: &mut Settings<'_, '_>) -> Self {
        Self {
            balance: settings.value("balance", self.balance, &BALANCES),
            proxy_protocol: settings.value("proxy_protocol", self.proxy_protocol, &PROXY_PROTOCOLS),
            connect_timeout: settings.value(
                "connect_timeout_seconds",
                self.connect_timeout,
                &Seconds(0.05..=300.0),
            ),
            idle_timeout: settings.value("idle_timeout_seconds", self.idle_timeout, &Seconds(0.05..=DAY)),
            retries: settings.value("retries", self.retries, &Number("backends", 0..=100)),
            check_interval: settings.value(
                "health_check_seconds",
                self.check_interval,
                &Seconds(0.0..=3600.0),
            ),
            check_timeout: settings.value(
                "health_check_timeout_seconds",
                self.check_timeout,
                &Seconds(0.05..=300.0),
            ),
            healthy_after: settings.value("healthy_after", self.healthy_after, &Number("checks", 1..=100)),
            unhealthy_after: settings.value(
                "unhealthy_after",
                self.unhealthy_after,
                &Number("checks", 1..=100),
            ),
            eject_after: settings.value("eject_after", self.eject_after, &Number("failures", 0..=1000)),
            eject_time: settings.value("eject_seconds", self.eject_time, &Seconds(0.05..=3600.0)),
            slow_start: settings.value("slow_start_seconds", self.slow_start, &Seconds(0.0..=3600.0)),
            check_http_port: settings.value(
                "health_check_http_port",
                self.check_http_port,
                &values::OptionalPort,
            ),
            check_http_path: settings.value(
                "health_check_http_path",
                self.check_http_path.clone(),
                &values::HttpPath,
            ),
        }
    }
}

/// The shipped file.
impl Default for Rules {
    fn default() -> Self {
        Self {
            balance: Balance::LeastConnections,
            proxy_protocol: ProxyProtocol::Off,
            connect_timeout: seconds(5),
            idle_timeout: seconds(600),
            retries: 3,
            check_interval: seconds(2),
            check_timeout: seconds(2),
            healthy_after: 2,
            unhealthy_after: 3,
            eject_after: 3,
            eject_time: seconds(10),
            slow_start: seconds(10),
            check_http_port: 0,
            check_http_path: "/healthz".to_owned(),
        }
    }
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// One section while it is read. A wrong value is noted and replaced by the default, so that the rest
/// of the file is checked too.
struct Settings<'s, 't> {
    entries: &'s [Entry<'t>],
    keys: Vec<&'static str>,
    problems: &'s mut Vec<Problem>,
}

impl Settings<'_, '_> {
    fn refuse_unknown(&mut self) {
        for entry in self.entries.iter().filter(|entry| !self.keys.contains(&entry.key)) {
            let mut problem = "there is no such key here".to_owned();
            let alike = self.keys.iter().min_by_key(|key| values::distance(key, entry.key));
            if let Some(key) = alike.filter(|key| values::distance(key, entry.key) <= 3) {
                problem = format!("{problem}; did you mean {key}?");
            }
            self.problems.push(Problem::new(entry.line, entry.key, problem));
        }
    }

    fn value<T>(&mut self, key: &str, default: T, kind: &impl Value<T>) -> T {
        let Some(entry) = self.entries.iter().find(|entry| entry.key == key) else {
            return default;
        };
        kind.parse(entry.value).unwrap_or_else(|| {
            let problem = format!("found {:?}, expected {}", entry.value, kind.expected());
            self.problems.push(Problem::new(entry.line, key, problem));
            default
        })
    }
}

/// A line of `[mappings]`; `None` if it is wrong, which has been noted then.
fn mapping(entry: &Entry<'_>, rules: &Rules, problems: &mut Vec<Problem>) -> Option<MappingConfig> {
    let mut wrong = |problem: String| problems.push(Problem::new(entry.line, entry.key, problem));
    let listen = values::address(entry.key);
    if listen.is_none() {
        wrong("expected [addr:]port to listen on, such as 8010, 127.0.0.1:8010 or [::]:8010".to_owned());
    }
    let (mut backends, mut names) = (Vec::new(), HashSet::new());
    for text in entry.value.split(',').map(str::trim) {
        match backend(text) {
            None => wrong(format!(
                "found {text:?}, expected a backend host:port, optionally with weight=1 to weight=1000 \
                 and node=NAME after it; backends are separated by commas"
            )),
            Some(new) if names.insert(new.name.clone()) => backends.push(new),
            Some(new) => wrong(format!("the backend {} stands there twice", new.name)),
        }
    }
    let mapping = MappingConfig { listen: listen?, backends, rules: rules.clone(), max_connections: None };
    if let Some(BackendConfig { name, .. }) = conflicts::leads_to_itself(&mapping) {
        let problem = format!("the backend {name} is this mapping itself: connections would never arrive");
        problems.push(Problem::new(entry.line, entry.key, problem));
    }
    Some(mapping)
}

/// `host:port`, then `weight=N` and `node=NAME` or not.
fn backend(text: &str) -> Option<BackendConfig> {
    let mut words = text.split_whitespace();
    let name = BackendName::parse(words.next()?)?;
    let (mut weight, mut node) = (None, None);
    for (key, value) in words.map(|word| word.split_once('=').unwrap_or_default()) {
        match key {
            "weight" if weight.is_none() => {
                weight = Some(value.parse().ok().filter(|weight| (1..=1000).contains(weight))?);
            }
            "node" if node.is_none() && !value.is_empty() => node = Some(value.to_owned()),
            _ => return None,
        }
    }
    Some(BackendConfig { name, weight: weight.unwrap_or(1), node })
}

/// A section `[mapping ADDRESS]`.
fn override_mapping(
    section: &Section<'_>,
    address: &str,
    mappings: &mut [MappingConfig],
    problems: &mut Vec<Problem>,
) {
    let listen = values::address(address);
    let Some(mapping) = mappings.iter_mut().find(|mapping| Some(mapping.listen) == listen) else {
        let problem = format!("there is no line for {address} in [mappings]");
        problems.push(Problem::new(section.line, "[mapping]", problem));
        return;
    };
    let keys = RULE_KEYS.iter().copied().chain(["max_connections"]).collect();
    let mut settings = Settings { entries: &section.entries, keys, problems };
    settings.refuse_unknown();
    mapping.rules = mapping.rules.overridden(&mut settings);
    let limit = Number("connections", 1..=10_000_000);
    let given = settings.entries.iter().any(|entry| entry.key == "max_connections");
    mapping.max_connections = given.then(|| settings.value("max_connections", 1, &limit));
}

#[cfg(test)]
mod tests;
