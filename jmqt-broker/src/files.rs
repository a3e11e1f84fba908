//! Files of logins and rules that are read again while the broker runs, and what follows when users or rules have changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jmqt_server::ServerHandle;
use jmqt_server::ready::{FileError, JwtLogin, PasswordFile, RulesFile};
use tokio::sync::Notify;

/// The time after which sessions that could not be validated are asked again.
const AGAIN: Duration = Duration::from_secs(30);

/// The files of logins and rules. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Files {
    files: Vec<(PathBuf, Reread)>,
    /// Users or rules have changed.
    changed: Arc<Notify>,
}

/// Reads a file now.
type Reread = Arc<dyn Fn() -> Result<(), FileError> + Send + Sync>;

impl Files {
    fn listener(&self) -> impl Fn() + Send + Sync + 'static {
        let changed = Arc::clone(&self.changed);
        move || changed.notify_one()
    }

    fn add(&mut self, path: &Path, reread: impl Fn() -> Result<(), FileError> + Send + Sync + 'static) {
        self.files.push((path.to_owned(), Arc::new(reread)));
    }

    pub(crate) fn add_passwords(&mut self, path: &Path, users: &PasswordFile) {
        users.on_change(self.listener());
        let users = users.clone();
        self.add(path, move || users.reload());
    }

    pub(crate) fn add_keys(&mut self, path: &Path, keys: &JwtLogin) {
        let keys = keys.clone();
        self.add(path, move || keys.reload());
    }

    pub(crate) fn add_rules(&mut self, path: &Path, rules: &RulesFile) {
        rules.on_change(self.listener());
        let rules = rules.clone();
        self.add(path, move || rules.reload());
    }

    /// Reads all files now, and says what came of it.
    pub(crate) fn reread(&self) {
        for (path, reread) in &self.files {
            match reread() {
                Ok(()) => tracing::info!("{} was read again", path.display()),
                Err(error) => {
                    for line in error.to_string().lines() {
                        tracing::error!("{line}");
                    }
                    tracing::error!("The content of {} that was read before stays in force", path.display());
                }
            }
        }
    }

    /// Applies changed users and rules to the clients that are connected, until it is dropped.
    pub(crate) async fn apply_changes(&self, server: ServerHandle) {
        loop {
            self.changed.notified().await;
            while self.apply(&server).await > 0 {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }

    /// Returns the number of questions without an answer.
    async fn apply(&self, server: &ServerHandle) -> u64 {
        let found = server.revalidate_here().await;
        let (sessions, ended, closed) = (found.sessions, found.ended, found.closed);
        if ended > 0 || closed > 0 {
            tracing::info!(
                sessions,
                subscriptions_ended = ended,
                sessions_closed = closed,
                "Applied changed users and rules to the clients that are connected"
            );
        }
        if found.failed > 0 {
            tracing::warn!(
                failed = found.failed,
                "Changed users and rules could not be applied to all clients; this is tried again"
            );
        }
        found.failed
    }
}
