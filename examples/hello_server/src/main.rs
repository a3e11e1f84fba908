//! The smallest server: everyone is who they say they are, and may do everything.
//!
//! `cargo run --release -p hello_server -- --config server.conf`
//!
//! Ports and the store's path may also come from the environment: `JMQT_SOCKET_PORT=0`,
//! `JMQT_SQLITE_PATH=/tmp/hello.db`. The benchmarks run against it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jmqt_server::{
    AllowAll, AuthRequest, AuthToken, AuthValidator, AuthVerdict, BoxError, ClientId, Config, DenyAll,
    Server, Silent, StatusCode, async_trait, logging,
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file; without one, the defaults and the environment.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Everyone is who they say they are in `{"client_name": …}`.
struct Believe;

#[async_trait]
impl AuthValidator for Believe {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        #[derive(serde::Deserialize)]
        struct Data {
            client_name: String,
        }
        let Ok(data) = serde_json::from_str::<Data>(request.data.as_str()) else {
            return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, "client_name is missing"));
        };
        Ok(match ClientId::parse(&data.client_name) {
            Ok(client) => AuthVerdict::grant(client, AuthToken::new("hello")),
            Err(error) => AuthVerdict::refuse(StatusCode::INVALID_PACKET, error.to_string()),
        })
    }
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    let config = Config::load(arguments.config.as_deref())?;
    let _log = logging::init("JMQTServer", &config.log)?;
    let server = Server::builder(config)
        .auth(Believe)
        .conn(AllowAll)
        .sub(AllowAll)
        .publish(AllowAll)
        .unsub(AllowAll)
        .control(DenyAll)
        .disconnect(Silent)
        .close(Silent)
        .catch_signals()
        .start()
        .await?;
    server.run_until_signal().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello_server: {error}");
            ExitCode::FAILURE
        }
    }
}
