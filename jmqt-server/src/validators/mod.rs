//! The decisions of the application: eight traits, one per decision, and two more for notifications.
//!
//! One type may implement all of them, or each may be set separately; [`AllowAll`], [`DenyAll`] and [`Silent`] are
//! ready to use. A validator that fails, panics or takes too long causes a SERVER_ERROR for that request only
//! (protocol.md 2.17).

mod arc;
mod ask;
mod attached;
mod auth;
mod close;
mod conn;
mod control;
mod disconnect;
mod exchange;
mod grant;
mod mqtt_connect;
mod open;
mod publish;
mod ready;
mod session;
mod stored;
mod sub;
mod unsub;

use std::sync::Arc;

use jmqt_core::{Payload, StatusCode};

pub(crate) use ask::{Asked, Question, asking, let_go, poll_at_once, poll_contained, poll_guarded};
pub(crate) use attached::{Attached, SessionData};
pub use auth::{AuthRequest, AuthValidator};
pub use close::{CloseNotice, CloseNotifier};
pub use conn::{Acceptance, ConnRequest, ConnValidator, ConnVerdict};
pub use control::{ControlHandler, ControlReply, ControlRequest};
pub use disconnect::{DisconnectNotice, DisconnectNotifier};
pub use exchange::{AuthExchange, AuthStep, ExchangeRequest};
pub use grant::{AuthVerdict, Grant};
pub use mqtt_connect::MqttConnect;
pub use open::{OpenNotice, OpenNotifier};
pub use publish::{PubData, PubRequest, PubValidator, PubVerdict, Replacement};
pub use ready::{AllowAll, DenyAll, Silent};
pub use session::SessionRequest;
pub use stored::{StoredNotice, StoredNotifier};
pub use sub::{FilterRequest, SubRequest, SubValidator};
pub use unsub::{UnsubRequest, UnsubValidator};

/// An error of a validator. It is logged, and the client is answered SERVER_ERROR.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The answer to a request that is either executed or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Execute the request.
    Allow,
    /// Refuse the request with this status in the acknowledgement. `StatusCode::OK` here is an error of the
    /// application and answered as SERVER_ERROR.
    Refuse(StatusCode),
}

impl Verdict {
    /// Refuses with [`StatusCode::NOT_ALLOWED`].
    pub const NOT_ALLOWED: Self = Self::Refuse(StatusCode::NOT_ALLOWED);
}

/// The validators and notifiers of a server. The builder ensures that the eight required ones are set.
pub(crate) struct Validators {
    pub(crate) auth: Arc<dyn AuthValidator>,
    pub(crate) conn: Arc<dyn ConnValidator>,
    pub(crate) sub: Arc<dyn SubValidator>,
    pub(crate) publish: Arc<dyn PubValidator>,
    pub(crate) unsub: Arc<dyn UnsubValidator>,
    pub(crate) control: Arc<dyn ControlHandler>,
    pub(crate) disconnect: Arc<dyn DisconnectNotifier>,
    pub(crate) close: Arc<dyn CloseNotifier>,
    pub(crate) open: Option<Arc<dyn OpenNotifier>>,
    pub(crate) stored: Option<Arc<dyn StoredNotifier>>,
}

/// The data is not JSON of the expected type. The error does not quote the data, so it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data does not have the expected type, at line {line}, column {column}")]
pub struct UnexpectedData {
    line: usize,
    column: usize,
}

/// Parses data into a type of the application.
fn read_json<'a, T: serde::Deserialize<'a>>(data: Payload<'a>) -> Result<T, UnexpectedData> {
    let read = serde_json::from_str(data.as_str());
    read.map_err(|error| UnexpectedData { line: error.line(), column: error.column() })
}
