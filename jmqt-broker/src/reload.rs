//! What SIGHUP does.

use std::path::Path;

use jmqt_server::{Config, ConfigError};

use crate::files::Files;
use crate::settings::Settings;

/// Keys whose new values the server uses at once.
const AT_ONCE: [&str; 4] = [
    "MAX_CONNECTIONS",
    "MAX_CONNECTIONS_PER_ADDRESS",
    "MAX_CONNECTS_PER_ADDRESS_PER_SECOND",
    "TRUSTED_PROXIES",
];

/// Reads the files again, and says which keys of the configuration have changed and which of them wait for a restart.
pub(crate) fn run(file: &Path, given: &[(&'static str, u64)], files: &Files) -> Result<Config, ConfigError> {
    files.reread();
    let settings = Settings::load(file)?;
    let changed = changed(given, &settings.given);
    let (now, later): (Vec<&str>, Vec<&str>) = changed.iter().partition(|key| AT_ONCE.contains(key));
    if changed.is_empty() {
        tracing::info!("{} is as it was at the start", file.display());
    }
    if !now.is_empty() {
        tracing::info!("In force now: {}", now.join(", "));
    }
    if !later.is_empty() {
        tracing::warn!("Waits for a restart: {}", later.join(", "));
    }
    Ok(settings.server)
}

/// The keys whose values differ, sorted.
fn changed(before: &[(&'static str, u64)], after: &[(&'static str, u64)]) -> Vec<&'static str> {
    let differing = |one: &[(&'static str, u64)], other: &[(&'static str, u64)]| -> Vec<&'static str> {
        one.iter().filter(|value| !other.contains(value)).map(|(key, _)| *key).collect()
    };
    let mut keys = [differing(before, after), differing(after, before)].concat();
    keys.sort_unstable();
    keys.dedup();
    keys
}
