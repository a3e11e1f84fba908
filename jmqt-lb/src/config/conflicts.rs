//! Settings that are right one by one and cannot be had together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::error::Problem;
use super::values::Host;
use super::{BackendConfig, MappingConfig};

/// An address that is listened on, and where the file says so.
pub(super) struct Listening<'c> {
    pub(super) line: usize,
    pub(super) key: &'c str,
    pub(super) address: SocketAddr,
}

/// Finds addresses of which only one can be listened on.
pub(super) fn overlapping(listening: &[Listening<'_>], problems: &mut Vec<Problem>) {
    let mut by_port: HashMap<u16, Vec<&Listening<'_>>> = HashMap::new();
    for new in listening.iter().filter(|new| new.address.port() != 0) {
        let others = by_port.entry(new.address.port()).or_default();
        if let Some(other) = others.iter().find(|other| overlap(other.address.ip(), new.address.ip())) {
            let problem = format!(
                "{} cannot be listened on beside {} of line {}: one address holds the other",
                new.address, other.address, other.line
            );
            problems.push(Problem::new(new.line, new.key, problem));
        }
        others.push(new);
    }
}

/// Whether listening on one leaves no room for the other on the same port.
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

/// Why no log file can be made at this path.
pub(super) fn log_path(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    match folder.metadata() {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(format!("{} is not a folder", folder.display())),
        Err(error) => Some(format!("the folder {} cannot be used: {error}", folder.display())),
    }
}
