//! How many files, and so connections, this process may have open.

use crate::config::DEFAULT_MAX_CONNECTIONS;

/// What is kept for everything else: the database, its readers, the log, standard streams, the page of an
/// application.
const RESERVED: u64 = 128;

/// Raises the soft limit of open files to the hard one, and warns if MAX_CONNECTIONS do not fit. If nobody has chosen
/// MAX_CONNECTIONS, that is worth a note only: a server on a desktop never has as many.
#[cfg(unix)]
pub(crate) fn raise_limit(max_connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Where that is not allowed, what there is has to do.
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
