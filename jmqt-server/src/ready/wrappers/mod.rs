//! Wrappers for any validator: a cache, a limit of what runs at once, a time limit.

mod cached;
mod limited;
mod single_flight;
mod timed_out;

pub use cached::{CacheOptions, Cached};
pub use limited::Limited;
pub use timed_out::TimedOut;

use jmqt_core::StatusCode;

use crate::validators::{AuthVerdict, ConnVerdict, ControlReply, PubVerdict, Verdict};

/// The answer of a wrapper in place of its validator: the client may try again later. It is SERVER_ERROR, which an MQTT client receives as
/// 0x88 at connect and 0x83 later.
trait Later {
    fn later() -> Self;
}

impl Later for Verdict {
    fn later() -> Self {
        Self::Refuse(StatusCode::SERVER_ERROR)
    }
}

impl Later for PubVerdict {
    fn later() -> Self {
        Self::Refuse(StatusCode::SERVER_ERROR)
    }
}

impl Later for ConnVerdict {
    fn later() -> Self {
        Self::Refuse(StatusCode::SERVER_ERROR)
    }
}

impl Later for AuthVerdict {
    fn later() -> Self {
        Self::refuse(StatusCode::SERVER_ERROR, "try again later")
    }
}

impl Later for ControlReply {
    fn later() -> Self {
        Self::status(StatusCode::SERVER_ERROR)
    }
}

/// Implements the validators for a wrapper that has a function `guard`, which gets the future of the answer.
macro_rules! guarded {
    ($wrapper:ident: $($of:ident { $($method:ident($request:ident) -> $answer:ty;)+ })+) => {$(
        #[async_trait::async_trait]
        impl<T: crate::validators::$of> crate::validators::$of for $wrapper<T> {$(
            async fn $method(
                &self,
                request: &crate::validators::$request<'_>,
            ) -> Result<$answer, crate::validators::BoxError> {
                match self.guard(self.inner.$method(request)).await {
                    Some(answer) => answer,
                    None => Ok(<$answer as super::Later>::later()),
                }
            }
        )+}
    )+};
    ($wrapper:ident) => {
        crate::ready::wrappers::guarded! { $wrapper:
            AuthValidator { validate_auth(AuthRequest) -> crate::validators::AuthVerdict; }
            ConnValidator {
                validate_conn(ConnRequest) -> crate::validators::ConnVerdict;
                validate_again(SessionRequest) -> crate::validators::Verdict;
            }
            PubValidator { validate_pub(PubRequest) -> crate::validators::PubVerdict; }
            UnsubValidator { validate_unsub(UnsubRequest) -> crate::validators::Verdict; }
            ControlHandler { handle_control(ControlRequest) -> crate::validators::ControlReply; }
        }

        #[async_trait::async_trait]
        impl<T: crate::validators::SubValidator> crate::validators::SubValidator for $wrapper<T> {
            async fn validate_sub(
                &self,
                request: &crate::validators::SubRequest<'_>,
            ) -> Result<crate::validators::Verdict, crate::validators::BoxError> {
                let guarded = self.guard(self.inner.validate_sub(request)).await;
                guarded.unwrap_or_else(|| Ok(super::Later::later()))
            }

            async fn validate_filter(
                &self,
                request: &crate::validators::FilterRequest<'_>,
            ) -> Result<crate::validators::Verdict, crate::validators::BoxError> {
                let guarded = self.guard(self.inner.validate_filter(request)).await;
                guarded.unwrap_or_else(|| Ok(super::Later::later()))
            }

            fn revision(&self, request: &crate::validators::SessionRequest<'_>) -> Option<u64> {
                self.inner.revision(request)
            }
        }

        #[async_trait::async_trait]
        impl<T: crate::ready::IdentitySource> crate::ready::IdentitySource for $wrapper<T> {
            async fn identify(
                &self,
                credentials: &crate::ready::Credentials<'_>,
            ) -> Result<crate::ready::Answer, crate::validators::BoxError> {
                match self.guard(self.inner.identify(credentials)).await {
                    Some(answer) => answer,
                    None => Err(crate::ready::Unavailable::because(Self::REASON).into()),
                }
            }

            async fn restore(
                &self,
                user: &str,
            ) -> Result<Option<crate::ready::Identity>, crate::validators::BoxError> {
                match self.guard(self.inner.restore(user)).await {
                    Some(answer) => answer,
                    None => Err(crate::ready::Unavailable::because(Self::REASON).into()),
                }
            }

            async fn is_current(
                &self,
                identity: &crate::ready::Identity,
            ) -> Result<bool, crate::validators::BoxError> {
                match self.guard(self.inner.is_current(identity)).await {
                    Some(answer) => answer,
                    None => Err(crate::ready::Unavailable::because(Self::REASON).into()),
                }
            }

            fn has_user(&self, user: &str) -> bool {
                self.inner.has_user(user)
            }
        }
    };
}
use guarded;
