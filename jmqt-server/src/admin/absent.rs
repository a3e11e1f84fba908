//! A build without the feature `admin`: the same names, without a listener.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::Shared;

/// Cannot happen: this build has no listener for operators.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {}

impl AdminError {
    pub(crate) fn is_mistake(&self) -> bool {
        match *self {}
    }
}

pub(crate) enum AdminListener {}

impl AdminListener {
    pub(crate) fn bind(_: &Config) -> Result<Option<Self>, AdminError> {
        Ok(None)
    }

    pub(crate) fn serve(
        _: Option<Self>,
        _: Arc<Shared>,
        _: CancellationToken,
    ) -> Result<Option<Running>, AdminError> {
        Ok(None)
    }
}

pub(crate) enum Running {}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        match *self {}
    }

    pub(crate) async fn stop(self) {
        match self {}
    }
}
