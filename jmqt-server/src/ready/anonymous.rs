//! Clients without credentials.

use async_trait::async_trait;

use super::identity::{Answer, Credentials, Identity, IdentitySource};
use crate::validators::BoxError;

/// Knows every client that shows no user name, no password and no token: an anonymous client. A JMQT client among them receives a
/// random client id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl IdentitySource for Anonymous {
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        Ok(if credentials.is_empty() { Answer::Known(Identity::default()) } else { Answer::NotMine })
    }

    async fn restore(&self, _: &str) -> Result<Option<Identity>, BoxError> {
        Ok(None)
    }
}
