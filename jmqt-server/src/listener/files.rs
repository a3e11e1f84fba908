//! The limit of open files, which also limits the number of connections.

use crate::config::DEFAULT_MAX_CONNECTIONS;

/// File descriptors that are reserved for other purposes: the database, its readers, the log, standard streams, files
/// of the application.
const RESERVED: u64 = 128;

/// Raises the soft limit of open files to the hard limit, and warns if MAX_CONNECTIONS exceeds it. If MAX_CONNECTIONS
/// has its default, this is logged as information only: a server on a desktop never has that many connections.
#[cfg(unix)]
pub(crate) fn raise_limit(max_connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If this is not allowed, the soft limit stays.
        if setrlimit(Resource::Nofile, limit).is_ok() {
            tracing::debug!(target: "jmqt::server", ?before, now = ?limit.current, "raised the limit of open files");
        }
    }
    let Some(files) = getrlimit(Resource::Nofile).current else { return };
    let room = files.saturating_sub(RESERVED);
    if (max_connections as u64) <= room {
        return;
    }
    if max_connections == DEFAULT_MAX_CONNECTIONS {
        tracing::info!(
            target: "jmqt::server",
            files,
            "there is room for about {room} connections; for more, raise the limit of open files (`ulimit -n`, LimitNOFILE \
             of systemd)"
        );
    } else {
        tracing::warn!(
            target: "jmqt::server",
            files,
            max_connections,
            "the limit of open files leaves room for about {room} connections: raise it (`ulimit -n`, LimitNOFILE of \
             systemd), or lower MAX_CONNECTIONS, so that connections are refused and not left waiting"
        );
    }
}

#[cfg(not(unix))]
pub(crate) fn raise_limit(_: usize) {}
