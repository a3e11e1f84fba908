//! What nearly every server needs: `use jmqt_server::prelude::*`.
//!
//! Everything else is imported by its path, such as [`jmqt_server::Disconnect`](crate::Disconnect) or
//! [`jmqt_server::testing`](crate::testing).

pub use crate::tokens::TokenIssuer;
pub use crate::{
    AllowAll, AuthRequest, AuthValidator, AuthVerdict, BoxError, ChannelName, ClientId, CloseNotice,
    CloseNotifier, Config, ConnRequest, ConnValidator, ConnVerdict, ControlHandler, ControlReply,
    ControlRequest, DenyAll, DisconnectNotice, DisconnectNotifier, OpenNotice, OpenNotifier, Persistence,
    Protocol, PubRequest, PubValidator, PubVerdict, Publish, Server, ServerHandle, StatusCode, StoredNotice,
    StoredNotifier, SubRequest, SubValidator, UnsubRequest, UnsubValidator, Verdict, async_trait, logging,
};
