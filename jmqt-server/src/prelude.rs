//! The names that most servers need: `use jmqt_server::prelude::*`.
//!
//! Import other names by path, for example [`jmqt_server::Disconnect`](crate::Disconnect) or
//! [`jmqt_server::testing`](crate::testing).

pub use crate::tokens::TokenIssuer;
pub use crate::{
    AllowAll, AuthRequest, AuthValidator, AuthVerdict, BoxError, ChannelName, ClientId, CloseNotice,
    CloseNotifier, Config, ConnRequest, ConnValidator, ConnVerdict, ControlHandler, ControlReply,
    ControlRequest, DenyAll, DisconnectNotice, DisconnectNotifier, FilterRequest, OpenNotice, OpenNotifier,
    Persistence, Protocol, PubRequest, PubValidator, PubVerdict, Publish, Server, ServerHandle, StatusCode,
    StoredNotice, StoredNotifier, SubRequest, SubValidator, UnsubRequest, UnsubValidator, Verdict,
    async_trait, logging,
};
