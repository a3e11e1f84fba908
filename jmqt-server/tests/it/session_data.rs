//! Session data: data that `auth` and `conn` attach is visible to all later requests of the session.

use crate::support;

use std::sync::Arc;

use jmqt_server::{
    AuthRequest, AuthToken, AuthValidator, AuthVerdict, BoxError, ClientId, CloseNotice, CloseNotifier,
    Config, ConnRequest, ConnValidator, ConnVerdict, ControlHandler, ControlReply, ControlRequest,
    DisconnectNotice, DisconnectNotifier, Protocol, PubRequest, PubValidator, PubVerdict, Server, StatusCode,
    SubRequest, SubValidator, UnsubRequest, UnsubValidator, Verdict, async_trait,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::Client;

/// What the application knows of a client.
struct User {
    role: String,
}

/// Writes down in which request it saw which role.
struct App {
    seen: mpsc::UnboundedSender<String>,
}

impl App {
    fn saw(&self, asked: &str, user: Option<&User>) {
        let role = user.map_or("nothing", |user| user.role.as_str());
        self.seen.send(format!("{asked} {role}")).unwrap();
    }
}

#[async_trait]
impl AuthValidator for App {
    /// `["alice","admin"]`: the client, and the role to attach. `["alice"]` attaches none.
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        self.saw("auth", request.session());
        let data: Vec<String> = serde_json::from_str(request.data.as_str())?;
        let verdict = AuthVerdict::grant(ClientId::parse(&data[0])?, AuthToken::new("t"));
        Ok(match data.get(1) {
            Some(role) => verdict.attach(Arc::new(User { role: role.clone() })),
            None => verdict,
        })
    }
}

#[async_trait]
impl ConnValidator for App {
    /// A token other than `t` is the role to attach; `refuse` refuses.
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        self.saw("conn", request.session());
        Ok(match request.token {
            "t" => ConnVerdict::accept(),
            "refuse" => ConnVerdict::Refuse(StatusCode::NOT_ALLOWED),
            role => ConnVerdict::accept().attach(Arc::new(User { role: role.to_owned() })),
        })
    }
}

#[async_trait]
impl SubValidator for App {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        self.saw("sub", request.session());
        assert!(request.session::<String>().is_none(), "it is of another type");
        Ok(Verdict::Allow)
    }
}

#[async_trait]
impl PubValidator for App {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        self.saw("pub", request.session_arc().as_deref());
        Ok(PubVerdict::Allow)
    }
}

#[async_trait]
impl UnsubValidator for App {
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        self.saw("unsub", request.session());
        Ok(Verdict::Allow)
    }
}

#[async_trait]
impl ControlHandler for App {
    async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        self.saw("control", request.session());
        Ok(ControlReply::status(StatusCode::OK))
    }
}

#[async_trait]
impl DisconnectNotifier for App {
    async fn on_disconnect(&self, notice: &DisconnectNotice<'_>) -> Result<(), BoxError> {
        self.saw("disconnect", notice.session());
        Ok(())
    }
}

#[async_trait]
impl CloseNotifier for App {
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        self.saw("close", notice.session());
        Ok(())
    }
}

struct Running {
    server: Server,
    seen: mpsc::UnboundedReceiver<String>,
    client: Client,
    _folder: tempfile::TempDir,
}

/// A server, and a connection to it without a session. The application is plugged as an `Arc`.
async fn start() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.sqlite_path = folder.path().join("jmqt.db");
    (config.bind_address, config.socket_port) = ([127, 0, 0, 1].into(), Some(0));
    config.websocket_port = None;
    let (noted, seen) = mpsc::unbounded_channel();
    let app = Arc::new(App { seen: noted });
    let server = Server::builder(config).app(Arc::clone(&app)).start().await.unwrap();
    let address = server.local_addr(Protocol::Socket).unwrap();
    let client = Client::new(Protocol::Socket, TcpStream::connect(address).await.unwrap());
    Running { server, seen, client, _folder: folder }
}

impl Running {
    async fn expect_seen(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(support::within(format_args!("{line}"), self.seen.recv()).await.unwrap(), *line);
        }
    }

    async fn exchange(&mut self, sent: &str, expected: &str) {
        self.client.send(sent).await;
        self.client.expect(expected).await;
    }
}

const CONNECTED: &str = r#"{"connAck":{"st":1,"ts":60}}"#;

#[tokio::test]
async fn data_attached_by_conn_is_visible_to_all_later_requests() {
    let mut run = start().await;
    run.exchange(r#"{"conn":{"cl":"alice","at":"admin"}}"#, CONNECTED).await;
    run.exchange(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    run.exchange(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#, r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    run.exchange(r#"{"pub":{"cn":"$ask","dt":1,"id":"2"}}"#, r#"{"pubAck":{"st":1,"id":"2"}}"#).await;
    run.exchange(r#"{"unsub":{"cn":"news"}}"#, r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    run.client.send(r#"{"disconn":{}}"#).await;
    let seen = ["conn nothing", "sub admin", "pub admin", "control admin", "unsub admin"];
    run.expect_seen(&seen).await;
    run.expect_seen(&["disconnect admin", "close admin"]).await;
    run.server.shutdown().await;
}

#[tokio::test]
async fn data_attached_by_auth_is_visible_until_conn_replaces_it() {
    let mut run = start().await;
    let granted = r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#;
    run.exchange(r#"{"auth":{"dt":["alice","reader"]}}"#, granted).await;
    run.exchange(r#"{"conn":{"cl":"alice","at":"refuse"}}"#, r#"{"connAck":{"st":7}}"#).await;
    run.exchange(r#"{"conn":{"cl":"alice","at":"t"}}"#, CONNECTED).await;
    run.exchange(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    run.expect_seen(&["auth nothing", "conn reader", "conn reader", "sub reader"]).await;

    let mut run = start().await;
    run.exchange(r#"{"auth":{"dt":["alice","reader"]}}"#, granted).await;
    run.exchange(r#"{"conn":{"cl":"alice","at":"admin"}}"#, CONNECTED).await;
    run.exchange(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    run.expect_seen(&["auth nothing", "conn reader", "sub admin"]).await;
}

#[tokio::test] // a user with two accounts must not use the rights of one in the session of the other
async fn data_attached_by_auth_is_not_visible_to_another_client() {
    let mut run = start().await;
    run.exchange(r#"{"auth":{"dt":["root","admin"]}}"#, r#"{"authAck":{"st":1,"at":"t","cl":"root"}}"#).await;
    run.exchange(r#"{"conn":{"cl":"alice","at":"t"}}"#, CONNECTED).await;
    run.exchange(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    run.expect_seen(&["auth nothing", "conn nothing", "sub nothing"]).await;
    // Nor within a session.
    run.exchange(r#"{"auth":{"dt":["root","admin"]}}"#, r#"{"authAck":{"st":1,"at":"t","cl":"root"}}"#).await;
    run.exchange(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    run.expect_seen(&["auth nothing", "sub nothing"]).await;
}

#[tokio::test]
async fn auth_within_a_session_replaces_the_data_of_that_session() {
    let mut run = start().await;
    let granted = r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#;
    run.exchange(r#"{"conn":{"cl":"alice","at":"reader"}}"#, CONNECTED).await;
    run.exchange(r#"{"auth":{"dt":["alice","writer"]}}"#, granted).await;
    run.exchange(r#"{"auth":{"dt":["alice"]}}"#, granted).await; // attaches nothing, changes nothing
    run.exchange(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    run.expect_seen(&["conn nothing", "auth reader", "auth writer", "sub writer"]).await;
}
