//! The smallest server: it accepts every name, and permits everything. A client that has told its name gets a
//! signed token, without which nobody connects.
//!
//! `cargo run --release --bin hello_server -- --config server.conf`
//!
//! Ports and the store's path may also come from the environment: `JMQT_SOCKET_PORT=0`,
//! `JMQT_SQLITE_PATH=/tmp/hello.db`. The benchmarks run against it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jmqt_server::tokens::TokenIssuer;
use jmqt_server::{
    AllowAll, AuthRequest, AuthValidator, AuthVerdict, BoxError, Config, Server, StatusCode, async_trait,
    logging,
};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file; without one, the defaults and the environment.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Everyone is who they say they are. A real application asks for a password here.
struct Believe(TokenIssuer);

/// `"alice"` or `{"client_name": "alice"}`; of an MQTT client `{"username": "alice"}`, or nothing.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum AuthData {
    Name(String),
    Object {
        #[serde(alias = "username")]
        client_name: Option<String>,
    },
}

#[async_trait]
impl AuthValidator for Believe {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        let name = match request.json() {
            Ok(AuthData::Name(name) | AuthData::Object { client_name: Some(name) }) => name,
            Ok(_) if request.mqtt().is_some() => "guest".to_owned(),
            _ => return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, "client_name is missing")),
        };
        match request.client_id(&name) {
            Ok(client) => Ok(self.0.grant(client)?),
            Err(error) => Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, error.to_string())),
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), BoxError> {
    let config = Config::load(arguments.config.as_deref())?;
    let _log = logging::init("JMQTServer", &config.log)?;
    let tokens = TokenIssuer::from_config(&config)?;
    let server = Server::builder(config)
        .validate_auth(Believe(tokens.clone()))
        .validate_conn(tokens)
        .validate_sub(AllowAll)
        .validate_pub(AllowAll)
        .catch_signals()
        .reload_with(move || Config::load(arguments.config.as_deref()))
        .start()
        .await?;
    server.run_until_signal().await?;
    Ok(())
}

fn main() -> ExitCode {
    jmqt_server::run(serve(Arguments::parse()))
}
