//! A node that permits everything, and records its notifications.
//!
//! A client is who its auth data says it is, `{"auth":{"dt":"alice"}}`, or who the client id of its CONNECT names. Control
//! channels offer the server's own side (§9.e): `$force_sub`, `$force_subs` (many at once), `$force_unsub`, `$force_pub`,
//! `$disconnect`, `$subscriptions`, `$is_connected`, `$connections`, `$counters`. The close notifier of a client whose id begins
//! with `slow` takes a while.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use jmqt_server::{
    AllowAll, AuthRequest, AuthToken, AuthValidator, AuthVerdict, BoxError, ChannelName, ClientId,
    CloseNotice, CloseNotifier, Config, ConnRequest, ConnValidator, ConnVerdict, ControlHandler,
    ControlReply, ControlRequest, DisconnectNotice, DisconnectNotifier, Persistence, Publish, Server,
    StatusCode, async_trait, logging,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use torture::Event;
use torture::notices::NoticeFile;

/// What the close notifier of a client called `slow…` takes.
const SLOW: Duration = Duration::from_millis(300);

#[derive(Parser)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where notices are written.
    #[arg(long, value_name = "FILE")]
    notices: PathBuf,
    /// What the node calls itself there.
    #[arg(long)]
    name: String,
    /// Which start of this node it is, from 1 on.
    #[arg(long)]
    start: u32,
}

#[derive(Clone)]
struct App(Arc<NoticeFile>);

#[async_trait]
impl AuthValidator for App {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        let name = match request.mqtt() {
            Some(connect) => connect.client_id.to_owned(),
            None => serde_json::from_str(request.data.as_str())?,
        };
        Ok(AuthVerdict::grant(ClientId::parse(&name)?, AuthToken::new("token")))
    }
}

#[async_trait]
impl ConnValidator for App {
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        self.0.write(Event::Accepted, request.client.as_str(), Some(request.connection.remote))?;
        Ok(ConnVerdict::accept())
    }
}

#[async_trait]
impl DisconnectNotifier for App {
    async fn on_disconnect(&self, notice: &DisconnectNotice<'_>) -> Result<(), BoxError> {
        Ok(self.0.write(Event::Disconnected, notice.client.as_str(), Some(notice.connection.remote))?)
    }
}

#[async_trait]
impl CloseNotifier for App {
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        if notice.client.as_str().starts_with("slow") {
            self.0.write(Event::Closing, notice.client.as_str(), Some(notice.connection.remote))?;
            tokio::time::sleep(SLOW).await;
        }
        let event = Event::Closed(format!("{:?}", notice.reason));
        Ok(self.0.write(event, notice.client.as_str(), Some(notice.connection.remote))?)
    }
}

/// The `dt` of a control request; each channel needs some of it.
#[derive(Deserialize)]
struct Given<'a> {
    client: Option<String>,
    channel: Option<String>,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    count: usize,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Given<'_> {
    fn client(&self) -> Result<ClientId, BoxError> {
        Ok(ClientId::parse(self.client.as_deref().unwrap_or_default())?)
    }

    fn channel(&self) -> Result<ChannelName, BoxError> {
        Ok(ChannelName::parse(self.channel.as_deref().unwrap_or_default())?)
    }
}

#[async_trait]
impl ControlHandler for App {
    async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        let server = request.server;
        let text = request.data.map_or("{}", |data| data.as_str());
        let given: Given<'_> = serde_json::from_str(text)?;
        let reply = match request.channel.as_str() {
            "$force_sub" => {
                let persistence =
                    if given.persistent { Persistence::Persistent } else { Persistence::Temporary };
                server.force_sub(&given.client()?, &given.channel()?, persistence).await?;
                json!(true)
            }
            "$force_subs" => {
                let mut all = JoinSet::new();
                for number in 0..given.count {
                    let (server, client) = (server.clone(), given.client()?);
                    let channel = ChannelName::parse(&format!("{}{number}", given.channel()?))?;
                    all.spawn(
                        async move { server.force_sub(&client, &channel, Persistence::Temporary).await },
                    );
                }
                let done = all.join_all().await;
                json!(done.iter().filter(|done| done.is_ok()).count())
            }
            "$force_unsub" => json!(server.force_unsub(&given.client()?, &given.channel()?).await?),
            "$force_pub" => {
                let data = given.data.map_or("null", RawValue::get);
                let publish = Publish::raw(given.channel()?, data)?;
                let publish = if given.qos == 1 { publish.at_least_once() } else { publish };
                server.force_pub(publish).await?;
                json!(true)
            }
            "$disconnect" => json!(server.disconnect(&given.client()?)),
            "$subscriptions" => {
                let all = server.subscriptions(&given.client()?).await?;
                let mut all: Vec<_> = all
                    .iter()
                    .map(|(channel, persistence)| (channel.as_str(), *persistence == Persistence::Persistent))
                    .collect();
                all.sort_unstable();
                json!(all)
            }
            "$is_connected" => json!(server.is_connected(&given.client()?)),
            "$connections" => {
                let all = server.connections();
                let mut all: Vec<_> =
                    all.iter().map(|(client, info)| (client.as_str(), info.remote.to_string())).collect();
                all.sort_unstable();
                json!(all)
            }
            "$counters" => {
                let counters = server.counters();
                json!({
                    "sessions_opened": counters.sessions_opened,
                    "sessions_closed": counters.sessions_closed,
                    "redeliveries": counters.redeliveries,
                    "bus_dropped": counters.bus_dropped,
                    "bad_packets": counters.bad_packets,
                    "acks_ignored": counters.acks_ignored,
                    "store_failures": counters.store_failures,
                })
            }
            _ => return Ok(ControlReply::status(StatusCode::NOT_ALLOWED)),
        };
        Ok(ControlReply::ok(&reply)?)
    }
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    let config = Config::load(Some(&arguments.config))?;
    let _log = logging::init("TortureNode", &config.log)?;
    let notices = Arc::new(NoticeFile::open(&arguments.notices, &arguments.name, arguments.start)?);
    let app = App(Arc::clone(&notices));
    let server = Server::builder(config)
        .validate_auth(app.clone())
        .validate_conn(app.clone())
        .validate_sub(AllowAll)
        .validate_pub(AllowAll)
        .validate_unsub(AllowAll)
        .handle_control(app.clone())
        .on_disconnect(app.clone())
        .on_close(app)
        .catch_signals()
        .start()
        .await?;
    notices.write(Event::Started, "", None)?;
    server.run_until_signal().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture_node: {error}");
            ExitCode::FAILURE
        }
    }
}
