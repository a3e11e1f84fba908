//! Implements the validators for an `Arc` of a validator, so that the program can keep a clone of it.

use std::pin::Pin;
use std::sync::Arc;

use super::{
    AuthExchange, AuthRequest, AuthValidator, AuthVerdict, BoxError, CloseNotice, CloseNotifier, ConnRequest,
    ConnValidator, ConnVerdict, ControlHandler, ControlReply, ControlRequest, DisconnectNotice,
    DisconnectNotifier, ExchangeRequest, FilterRequest, OpenNotice, OpenNotifier, PubRequest, PubValidator,
    PubVerdict, SessionRequest, StoredNotice, StoredNotifier, SubRequest, SubValidator, UnsubRequest,
    UnsubValidator, Verdict,
};

/// Forwards the call. Written as `async_trait` would expand it, because `async_trait` would box one future in another
/// for each call.
macro_rules! forward {
    ($($of:ident { $($method:ident($request:ident) -> $answer:ty;)+ $(; $own:ident($of_session:ident) -> $value:ty;)? })+) => {$(
        impl<T: $of + ?Sized> $of for Arc<T> {$(
            fn $method<'life0, 'life1, 'life2, 'async_trait>(
                &'life0 self,
                request: &'life1 $request<'life2>,
            ) -> Pin<Box<dyn Future<Output = Result<$answer, BoxError>> + Send + 'async_trait>>
            where
                'life0: 'async_trait,
                'life1: 'async_trait,
                'life2: 'async_trait,
                Self: 'async_trait,
            {
                (**self).$method(request)
            }
        )+
        $(
            fn $own(&self, request: &$of_session<'_>) -> $value {
                (**self).$own(request)
            }
        )?}
    )+};
}

forward! {
    AuthValidator {
        validate_auth(AuthRequest) -> AuthVerdict;
        begin_exchange(ExchangeRequest) -> Option<Box<dyn AuthExchange>>;
    }
    ConnValidator {
        validate_conn(ConnRequest) -> ConnVerdict;
        validate_again(SessionRequest) -> Verdict;
    }
    SubValidator {
        validate_sub(SubRequest) -> Verdict;
        validate_filter(FilterRequest) -> Verdict;
        ; revision(SessionRequest) -> Option<u64>;
    }
    PubValidator { validate_pub(PubRequest) -> PubVerdict; }
    UnsubValidator { validate_unsub(UnsubRequest) -> Verdict; }
    ControlHandler { handle_control(ControlRequest) -> ControlReply; }
    DisconnectNotifier { on_disconnect(DisconnectNotice) -> (); }
    CloseNotifier { on_close(CloseNotice) -> (); }
    OpenNotifier { on_open(OpenNotice) -> (); }
    StoredNotifier { on_stored(StoredNotice) -> (); }
}
