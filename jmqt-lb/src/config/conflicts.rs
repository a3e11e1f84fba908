//! Settings that are valid one by one but contradict each other.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::problems::Problems;
use super::values::Host;
use super::{BackendConfig, MappingConfig};

/// An address to listen on, and its place in the file.
pub(super) struct Listening<'c> {
    pub(super) line: usize,
    pub(super) key: &'c str,
    pub(super) address: SocketAddr,
}

/// Finds addresses that conflict with each other.
pub(super) fn overlapping(listening: &[Listening<'_>], problems: &mut Problems) {
    let mut by_port: HashMap<u16, Vec<&Listening<'_>>> = HashMap::new();
    for new in listening.iter().filter(|new| new.address.port() != 0) {
        let others = by_port.entry(new.address.port()).or_default();
        if let Some(other) = others.iter().find(|other| overlap(other.address.ip(), new.address.ip())) {
            let problem = format!(
                "{} conflicts with {} on line {}: one address includes the other",
                new.address, other.address, other.line
            );
            problems.note(new.line, new.key, problem);
        }
        others.push(new);
    }
}

/// Whether two addresses with the same port conflict.
fn overlap(left: IpAddr, right: IpAddr) -> bool {
    let holds = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    left == right || holds(left, right) || holds(right, left)
}

/// The backend, if any, that is the mapping itself.
pub(super) fn leads_to_itself(mapping: &MappingConfig) -> Option<&BackendConfig> {
    let listen = mapping.listen;
    mapping.backends.iter().find(|BackendConfig { name, .. }| {
        let is_this_machine = match &name.host {
            Host::Address(address) => {
                *address == listen.ip() || (listen.ip().is_unspecified() && address.is_loopback())
            }
            Host::Name(name) => {
                name == "localhost" && (listen.ip().is_unspecified() || listen.ip().is_loopback())
            }
        };
        is_this_machine && listen.port() != 0 && name.port == listen.port()
    })
}

/// Why a log file cannot be made at this path.
pub(super) fn log_path(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(format!("{} is not a folder", folder.display())),
        Err(error) => Some(format!("cannot use the folder {}: {error}", folder.display())),
    }
}
