//! Rules for channels, from a file.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use ring::digest;

use super::identity::Identity;
use super::rules::{Access, Rules};
use crate::validators::{
    BoxError, FilterRequest, PubRequest, PubValidator, PubVerdict, SessionRequest, SubRequest, SubValidator,
    Verdict,
};
use crate::watched::{FileError, Watched};

/// A [`SubValidator`] and [`PubValidator`] that decides by the [`Rules`] of a file, which is looked at every second, and read
/// again when it has changed.
///
/// It decides for the [`Identity`] of the session, which [`Login`](super::Login) attaches. A session without one is that of an
/// anonymous client. If the identity has rules of its own, from a token, these decide, and not those of the file.
///
/// A change of the file counts for the next subscription and publish. For subscriptions that exist, call
/// [`ServerHandle::revalidate_here`](crate::ServerHandle::revalidate_here) after the change ([`on_change`](Self::on_change)); those of
/// stored sessions are validated when these resume. The rules decide about a will when its client connects.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct RulesFile(Watched<Arc<Rules>>);

impl std::fmt::Debug for RulesFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RulesFile({} rules)", self.0.get().len())
    }
}

impl RulesFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`FileError`] names every mistake with its line.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Watched::open(path, |text| Rules::parse(text).map(Arc::new).map_err(|invalid| invalid.0)).map(Self)
    }

    /// Reads the file now. It is read by itself within three seconds after it has changed.
    ///
    /// # Errors
    /// As [`open`](Self::open); the rules that were read before stay.
    pub fn reload(&self) -> Result<(), FileError> {
        self.0.reload()
    }

    /// Calls this each time after the file was read again, on the thread that has read it: it must not block.
    pub fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.0.on_change(listener);
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.get())
    }

    /// What the rules for this identity say about a user.
    fn allows(&self, identity: Option<&Identity>, decide: impl FnOnce(&Rules, Option<&str>) -> bool) -> bool {
        if identity.is_some_and(Identity::has_ended) {
            return false;
        }
        match identity {
            Some(Identity { user, rules: Some(own), .. }) => decide(own, user.as_deref()),
            Some(Identity { user, .. }) => decide(&self.0.get(), user.as_deref()),
            None => decide(&self.0.get(), None),
        }
    }
}

/// Differs whenever the rules for this identity may differ, also if the rules of a file are those of an earlier time again: what a
/// client has subscribed to in between may be denied then.
fn revision(rules: &RulesFile, identity: Option<&Identity>) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    match identity.and_then(|identity| identity.rules.as_ref()) {
        Some(own) => context.update(own.digest()),
        None => {
            context.update(rules.0.get().digest());
            context.update(rules.0.version().as_bytes());
        }
    }
    if let Some(user) = identity.and_then(|identity| identity.user.as_deref()) {
        context.update(b"\0");
        context.update(user.as_bytes());
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl From<Rules> for RulesFile {
    /// Rules that are not in a file.
    fn from(rules: Rules) -> Self {
        Self(Watched::fixed(Arc::new(rules)))
    }
}

fn verdict(is_allowed: bool) -> Verdict {
    if is_allowed { Verdict::Allow } else { Verdict::NOT_ALLOWED }
}

#[async_trait]
impl SubValidator for RulesFile {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(verdict(self.allows(request.session::<Identity>(), |rules, user| {
            rules.allow(user, request.client, Access::Read, request.channel)
        })))
    }

    async fn validate_filter(&self, request: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        // A packet may have thousands of filters: others are served in between.
        tokio::task::yield_now().await;
        Ok(verdict(self.allows(request.session::<Identity>(), |rules, user| {
            rules.allow_filter(user, request.client, request.filter)
        })))
    }

    fn revision(&self, request: &SessionRequest<'_>) -> Option<u64> {
        Some(revision(self, request.session::<Identity>()))
    }
}

#[async_trait]
impl PubValidator for RulesFile {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        let identity = request.session::<Identity>();
        // A will was allowed when its client connected. Its connection is gone when it is published.
        if request.is_will && identity.is_none() {
            return Ok(PubVerdict::Allow);
        }
        let is_allowed = self.allows(identity, |rules, user| {
            rules.allow(user, request.client, Access::Write, request.channel)
        });
        Ok(if is_allowed { PubVerdict::Allow } else { PubVerdict::NOT_ALLOWED })
    }
}
