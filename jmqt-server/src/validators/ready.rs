//! Validators that are ready to use.

use async_trait::async_trait;
use jmqt_core::StatusCode;

use super::{
    AuthRequest, AuthValidator, AuthVerdict, BoxError, CloseNotifier, ConnRequest, ConnValidator,
    ConnVerdict, ControlHandler, DisconnectNotifier, FilterRequest, PubRequest, PubValidator, PubVerdict,
    SubRequest, SubValidator, UnsubRequest, UnsubValidator, Verdict,
};

/// Allows every `conn`, `sub`, `pub` and `unsub`.
///
/// It is not an [`AuthValidator`], because only the application can identify clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

/// Refuses every request: `auth`, `conn`, `sub`, `pub` and `unsub` with NOT_ALLOWED, control requests with
/// INVALID_CHANNEL.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

/// Receives every notice and does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

#[async_trait]
impl ConnValidator for AllowAll {
    async fn validate_conn(&self, _: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        Ok(ConnVerdict::accept())
    }
}

#[async_trait]
impl SubValidator for AllowAll {
    async fn validate_sub(&self, _: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(Verdict::Allow)
    }

    async fn validate_filter(&self, _: &FilterRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(Verdict::Allow)
    }
}

#[async_trait]
impl PubValidator for AllowAll {
    async fn validate_pub(&self, _: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        Ok(PubVerdict::Allow)
    }
}

impl UnsubValidator for AllowAll {}

#[async_trait]
impl AuthValidator for DenyAll {
    async fn validate_auth(&self, _: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "this server does not offer authentication"))
    }
}

#[async_trait]
impl ConnValidator for DenyAll {
    async fn validate_conn(&self, _: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        Ok(ConnVerdict::Refuse(StatusCode::NOT_ALLOWED))
    }
}

#[async_trait]
impl SubValidator for DenyAll {
    async fn validate_sub(&self, _: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(Verdict::NOT_ALLOWED)
    }
}

#[async_trait]
impl PubValidator for DenyAll {
    async fn validate_pub(&self, _: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        Ok(PubVerdict::NOT_ALLOWED)
    }
}

#[async_trait]
impl UnsubValidator for DenyAll {
    async fn validate_unsub(&self, _: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(Verdict::NOT_ALLOWED)
    }
}

impl ControlHandler for DenyAll {}

impl DisconnectNotifier for Silent {}

impl CloseNotifier for Silent {}
