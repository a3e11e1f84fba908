//! CONNECT (3.1).

use std::ops::ControlFlow;

use jmqt_core::{ClientId, PayloadBuf, StatusCode};
use jmqt_mqtt::{Connect, ReasonCode};

use super::accept::{accept, asked_of, refused_login, reject};
use super::{State, login};
use crate::connection::Flow;
use crate::context::Shared;
use crate::session::verbs::RefusedAuth;
use crate::session::{Session, verbs};
use crate::validators::Grant;
use crate::wire::Form;

pub(super) async fn handle_connect(
    shared: &Shared,
    session: &mut Session,
    state: &mut State,
    bytes: &[u8],
    connect: Connect<'_>,
) -> Flow {
    let (version, asked) = (connect.version, connect.properties);
    let limit = asked.maximum_packet_size().unwrap_or(u32::MAX);
    session.outbox.set_form(Form::of_mqtt(version, session.info.protocol.is_websocket()), limit);
    session.begin_request().await;
    if !connect.client_id.is_empty()
        && let Err(error) = ClientId::parse(connect.client_id)
    {
        let text = error.to_string();
        return reject(shared, session, &connect, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, &text);
    }
    if let Some(method) = asked.authentication_method() {
        return login::begin(shared, session, state, bytes, &connect, method).await;
    }
    match authenticate(shared, session, &connect).await? {
        Ok(grant) => accept(shared, session, state, &connect, grant, None).await,
        Err(refused) => reject(shared, session, &connect, refused_login(refused.status), &refused.message),
    }
}

/// Asks the auth validator: user name and password are the data of an `auth`.
async fn authenticate(
    shared: &Shared,
    session: &mut Session,
    connect: &Connect<'_>,
) -> Flow<Result<Grant, RefusedAuth>> {
    let password = connect.password.map(|password| match std::str::from_utf8(password) {
        Ok(text) => serde_json::Value::String(text.to_owned()),
        Err(_) => {
            let data = jmqt_mqtt::payload::to_data(password, jmqt_mqtt::payload::Declared::Binary);
            serde_json::from_str(&data.json).unwrap_or_default()
        }
    });
    let mut data = serde_json::Map::new();
    if let Some(name) = connect.user_name {
        data.insert("username".to_owned(), name.into());
    }
    if let Some(password) = password {
        data.insert("password".to_owned(), password);
    }
    let Ok(data) = PayloadBuf::json(&data) else {
        let message = "the user name or the password cannot be used".to_owned();
        return ControlFlow::Continue(Err(RefusedAuth { status: StatusCode::INVALID_PACKET, message }));
    };
    let request = asked_of(connect);
    verbs::authenticate(shared, session, data.as_payload(), Some(&request)).await
}
