//! `load_balancer.conf`, checked: what the balancer needs to know before it starts, or goes on after
//! a reload.
//!
//! All problems of a file are found in one go, each with its line. Not here: cutting a file into lines
//! and sections (`lines`), single values (`values`), opening what the values name.
//! `docs/load-balancer.md` is the same for operators.

mod conflicts;
mod lines;
mod problems;
mod values;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub(crate) use jmqt_config::ConfigError;
use jmqt_config::{Keys, Settings, Value, Variables};
use jmqt_log::{LogConfig, LogMode};

use conflicts::Listening;
use lines::{Entry, Section, Title};
use problems::Problems;
pub(crate) use values::{BackendName, Host};
use values::{Kind, Number, Seconds};

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

const BALANCES: [(&str, Balance); 3] = [
    ("least_connections", Balance::LeastConnections),
    ("round_robin", Balance::RoundRobin),
    ("source_hash", Balance::SourceHash),
];
const PROXY_PROTOCOLS: [(&str, ProxyProtocol); 2] = [("off", ProxyProtocol::Off), ("v2", ProxyProtocol::V2)];
const LOG_MODES: [(&str, LogMode); 5] = [
    ("DBG", LogMode::Debug),
    ("INF", LogMode::Info),
    ("WRN", LogMode::Warning),
    ("ERR", LogMode::Error),
    ("DISABLED", LogMode::Disabled),
];

/// Keys of `[options]`. The last [`RULES`] of them may be in `[mapping ADDRESS]` too.
const OPTION_KEYS: [&str; 23] = [
    "buffer_size",
    "pre_resolve_workers",
    "resolve_seconds",
    "threads",
    "status_address",
    "drain_seconds",
    "log_path",
    "log_mode",
    "max_connections",
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
const RULES: usize = 15;

/// The keys of a section. Nothing is read from the environment.
const fn keys(known: &'static [&'static str]) -> Keys {
    Keys { known, also: &[], secret: &[], prefix: "", variables: Variables::Shared }
}

fn option_keys() -> Keys {
    keys(&OPTION_KEYS)
}

fn rule_keys() -> Keys {
    keys(OPTION_KEYS.split_at(OPTION_KEYS.len() - RULES).1)
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong on which lines. Show it; stop, or keep what was there before.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut problems = Problems::new(path);
        let config = Self::read(&lines::sections(text, &mut problems), &mut problems);
        problems.into_result(config)
    }

    fn read(sections: &[Section<'_>], problems: &mut Problems) -> Self {
        let of = |title: Title<'static>| {
            let section = sections.iter().find(|section| section.title == title);
            section.map(|section| section.entries.as_slice()).unwrap_or_default()
        };
        let settings = settings(option_keys(), of(Title::Options), problems);
        let options = Options::read(&settings);
        let rules = Rules::default().overridden(&settings);
        problems.extend(settings.into_problems());
        let (mut mappings, mut listening) = (Vec::new(), Vec::new());
        for Entry { line, key, value } in of(Title::Options) {
            match (*key, values::address(value)) {
                ("status_address", Some(address)) => listening.push(Listening { line: *line, key, address }),
                ("log_path", _) => {
                    if let Some(problem) = conflicts::log_path(Path::new(value)) {
                        problems.note(*line, key, problem);
                    }
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
            let problem = "there is nothing to listen on: add a line `[addr:]port = host:port,host:port`";
            problems.note(0, "[mappings]", problem);
        }
        for section in sections {
            let Title::Mapping(address) = section.title else { continue };
            override_mapping(section, address, &mut mappings, problems);
        }
        Self { options, mappings }
    }
}

impl Options {
    fn read(settings: &Settings) -> Self {
        Self {
            buffer_size: value(settings, "buffer_size", 262_144, &Number("bytes", 1024..=16 << 20)),
            pre_resolve: settings.switch("pre_resolve_workers", true),
            resolve_interval: value(settings, "resolve_seconds", seconds(30), &Seconds(0.05..=DAY)),
            threads: value(settings, "threads", 0, &Number("threads", 0..=256)),
            max_connections: value(
                settings,
                "max_connections",
                100_000,
                &Number("connections", 1..=10_000_000),
            ),
            status_address: value(settings, "status_address", None, &values::OptionalAddress),
            drain: value(settings, "drain_seconds", seconds(30), &Seconds(0.0..=3600.0)),
            log: LogConfig::new(
                settings.choice("log_mode", LogMode::Info, &LOG_MODES),
                settings.path("log_path", ""),
            ),
        }
    }
}

impl Rules {
    /// These rules, except for what the section says otherwise.
    fn overridden(&self, settings: &Settings) -> Self {
        Self {
            balance: settings.choice("balance", self.balance, &BALANCES),
            proxy_protocol: settings.choice("proxy_protocol", self.proxy_protocol, &PROXY_PROTOCOLS),
            connect_timeout: value(
                settings,
                "connect_timeout_seconds",
                self.connect_timeout,
                &Seconds(0.05..=300.0),
            ),
            idle_timeout: value(settings, "idle_timeout_seconds", self.idle_timeout, &Seconds(0.05..=DAY)),
            retries: value(settings, "retries", self.retries, &Number("backends", 0..=100)),
            check_interval: value(
                settings,
                "health_check_seconds",
                self.check_interval,
                &Seconds(0.0..=3600.0),
            ),
            check_timeout: value(
                settings,
                "health_check_timeout_seconds",
                self.check_timeout,
                &Seconds(0.05..=300.0),
            ),
            healthy_after: value(settings, "healthy_after", self.healthy_after, &Number("checks", 1..=100)),
            unhealthy_after: value(
                settings,
                "unhealthy_after",
                self.unhealthy_after,
                &Number("checks", 1..=100),
            ),
            eject_after: value(settings, "eject_after", self.eject_after, &Number("failures", 0..=1000)),
            eject_time: value(settings, "eject_seconds", self.eject_time, &Seconds(0.05..=3600.0)),
            slow_start: value(settings, "slow_start_seconds", self.slow_start, &Seconds(0.0..=3600.0)),
            check_http_port: value(
                settings,
                "health_check_http_port",
                self.check_http_port,
                &values::OptionalPort,
            ),
            check_http_path: value(
                settings,
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

/// One section as settings: every value is text.
fn settings(keys: Keys, entries: &[Entry<'_>], problems: &Problems) -> Settings {
    let mut settings = Settings::new(keys);
    for Entry { line, key, value } in entries {
        settings.add_value(key, Value::Text((*value).to_owned()), problems.origin(*line));
    }
    settings
}

fn value<T>(settings: &Settings, key: &'static str, default: T, kind: &impl Kind<T>) -> T {
    settings.value(key, default, |value| kind.parse(value.as_text()?), || kind.expected())
}

/// A line of `[mappings]`; `None` if it is wrong, which has been noted then.
fn mapping(entry: &Entry<'_>, rules: &Rules, problems: &mut Problems) -> Option<MappingConfig> {
    let mut wrong = |problem: String| problems.note(entry.line, entry.key, problem);
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
            Some(new) => wrong(format!("duplicate backend {}", new.name)),
        }
    }
    let mapping = MappingConfig { listen: listen?, backends, rules: rules.clone(), max_connections: None };
    if let Some(BackendConfig { name, .. }) = conflicts::leads_to_itself(&mapping) {
        let problem =
            format!("the backend {name} is this mapping itself, which would connect to itself forever");
        problems.note(entry.line, entry.key, problem);
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
    problems: &mut Problems,
) {
    let listen = values::address(address);
    let Some(mapping) = mappings.iter_mut().find(|mapping| Some(mapping.listen) == listen) else {
        let problem = format!("[mappings] has no line for {address}");
        problems.note(section.line, "[mapping]", problem);
        return;
    };
    let settings = settings(rule_keys(), &section.entries, problems);
    mapping.rules = mapping.rules.overridden(&settings);
    let limit = Number("connections", 1..=10_000_000);
    let given = settings.get("max_connections").is_some();
    mapping.max_connections = given.then(|| value(&settings, "max_connections", 1, &limit));
    problems.extend(settings.into_problems());
}

#[cfg(test)]
mod tests;
