//! The sample client: publishes the time on `mychannel` every ten seconds, and logs what others publish there.
//!
//! `cargo run --release --bin sample_client -- --config client.conf`
//!
//! It authenticates as `sample`, or by the name it is given: `sample_client alice`. The sample server believes it.
//! When it is disconnected it tries again every ten seconds; Ctrl-C ends it with a `disconn`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use jmqt_client::{ChannelName, Client, Config, Persistence, Publish, Push, Qos, Reconnect, Secret, logging};
use tokio::time::{MissedTickBehavior, interval};

/// What is read where no `--config` is given.
const DEFAULT_CONFIG: &str = "client.conf";
const CHANNEL: &str = "mychannel";
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The name to authenticate with
    #[arg(default_value = "sample")]
    name: String,
    /// The configuration file; without one, `client.conf` if it is there, else the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Between two publishes
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    every: u64,
}

impl Arguments {
    /// A file that was named must exist, which is for [`Config::load`] to say; the default one need not.
    fn config_file(&self) -> Option<PathBuf> {
        let default =
            || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| !matches!(path.try_exists(), Ok(false)));
        self.config.clone().or_else(default)
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mut config = Config::load(arguments.config_file().as_deref())?;
    let _log = logging::init("JMQTClient", &config.log)?;
    let auth_data = serde_json::json!({ "client_name": arguments.name });
    config.auth_data = Some(Secret::parse(&auth_data.to_string())?);
    config.reconnect = Reconnect::every(RETRY);

    let client = Client::start(config)?;
    client.on_push(|push| log(&push));
    client.on_disconnect(|reason| tracing::warn!("Disconnected : {reason}"));
    let work = async {
        let channel = ChannelName::parse(CHANNEL)?;
        tokio::try_join!(subscribe(&client, &channel), publish(&client, &channel, arguments.every))?;
        Ok::<_, Box<dyn Error>>(())
    };
    tokio::select! {
        done = work => done?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    tracing::info!("Leaving");
    client.close().await;
    Ok(())
}

/// Subscribes once; the client does it again after every reconnect. Without a server it goes on trying.
async fn subscribe(client: &Client, channel: &ChannelName) -> Result<(), Box<dyn Error>> {
    loop {
        match client.sub(channel, Persistence::Persistent).await {
            Ok(()) => {
                tracing::info!(
                    "Subscribed to '{channel}': what others publish there is logged; other channels are not subscribed to"
                );
                return Ok(());
            }
            Err(error @ jmqt_client::Error::Timeout { .. }) => tracing::warn!("Not subscribed yet : {error}"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Publishes the time, with QoS 1 and retained, for as long as the program runs.
async fn publish(client: &Client, channel: &ChannelName, every: u64) -> Result<(), Box<dyn Error>> {
    let mut tick = interval(Duration::from_secs(every));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // An old time is of no use to anybody, so none is queued while there is no connection.
        if client.connected().await.is_err() {
            continue;
        }
        let time = chrono::Local::now().format("%Y-%m-%d %H:%M:%S").to_string();
        let message = Publish::json(channel.clone(), &time)?.at_least_once().retained();
        match client.publish(&message).await {
            Ok(()) => tracing::info!("Published on '{channel}' : {time}"),
            Err(jmqt_client::Error::Closed) => return Err("the client has given up: see the log".into()),
            Err(error) => tracing::warn!("Not published on '{channel}' : {error}"),
        }
    }
}

/// What this program is there to show. A real client does not log other people's data.
fn log(push: &Push) {
    let (qos, retained) = (u8::from(push.qos() == Qos::AtLeastOnce), u8::from(push.is_retained()));
    let (channel, data) = (push.channel(), push.data());
    let publisher = if push.publisher().is_empty() { "the server" } else { push.publisher() };
    tracing::info!("Data on '{channel}' from {publisher} : {data} (QOS {qos}, RETAIN {retained})");
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample_client: {error}");
            ExitCode::FAILURE
        }
    }
}
