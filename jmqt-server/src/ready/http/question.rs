//! What a backend is asked, as JSON.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::identity::{Credentials, Identity};
use crate::connection::ConnectionInfo;
use crate::validators::BoxError;

/// A question. Fields that do not apply are left out. The names are those of EMQX, where it has the field.
#[derive(Default, Serialize)]
pub(super) struct Question<'a> {
    pub(super) action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clientid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<&'a str>,
    /// A password that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_base64: Option<zeroize::Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_common_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peerhost: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) persistent: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) will: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<&'a RawValue>,
}

impl<'a> Question<'a> {
    /// Who shows these credentials?
    pub(super) fn who_is(credentials: &Credentials<'a>) -> Self {
        let text = credentials.password.map(std::str::from_utf8);
        let connection = credentials.connection;
        Self {
            action: "connect",
            clientid: credentials.client_id.filter(|id| !id.is_empty()),
            username: credentials.user,
            password: text.and_then(Result::ok),
            password_base64: credentials
                .password
                .filter(|_| text.is_some_and(|text| text.is_err()))
                .map(|bytes| zeroize::Zeroizing::new(STANDARD.encode(bytes))),
            token: credentials.token,
            cert_subject: credentials.certificate.map(|it| it.subject()),
            cert_common_name: credentials.certificate.and_then(|it| it.common_name()),
            peerhost: connection.map(|it| it.remote.ip()),
            protocol: connection.map(|it| it.protocol.as_str()),
            ..Self::default()
        }
    }

    /// May this user come back, who has logged in before?
    pub(super) fn may_return(user: &'a str) -> Self {
        Self { action: "reconnect", username: Some(user), ..Self::default() }
    }

    /// May this client do this?
    pub(super) fn may(
        action: &'static str,
        client: &'a str,
        identity: Option<&'a Identity>,
        connection: ConnectionInfo,
        topic: &'a str,
    ) -> Self {
        Self {
            action,
            clientid: Some(client),
            username: identity.and_then(|identity| identity.user.as_deref()),
            peerhost: Some(connection.remote.ip()),
            protocol: Some(connection.protocol.as_str()),
            topic: Some(topic),
            ..Self::default()
        }
    }

    pub(super) fn json(&self) -> Result<Bytes, BoxError> {
        Ok(serde_json::to_vec(self)?.into())
    }
}
