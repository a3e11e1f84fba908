//! The sample server: the application to run first, and to start one's own from.
//!
//! `cargo run --release -p sample_server -- --config server.conf`
//!
//! What it decides is in [`app`], how its tokens are made in [`token`]. Here: arguments, start, end.

mod app;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use jmqt_server::{BoxError, Config, Server, logging};

use crate::app::SampleApp;
use crate::token::{SECRET_VARIABLE, Secret, TOKEN_LIFETIME, Tokens};

/// What is read where no `--config` is given.
const DEFAULT_CONFIG: &str = "server.conf";

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file; without one, `server.conf` if it is there, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Arguments {
    /// A file that was named must exist, which is for [`Config::load`] to say; the default one need not.
    fn config_file(self) -> Option<PathBuf> {
        let default =
            || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| !matches!(path.try_exists(), Ok(false)));
        self.config.or_else(default)
    }
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    let file = arguments.config_file();
    let config = Config::load(file.as_deref())?;
    let _log = logging::init("JMQTServer", &config.log)?;
    match file {
        Some(file) => tracing::info!("Configured by {}", file.display()),
        None => tracing::info!("There is no {DEFAULT_CONFIG} here: running with the defaults"),
    }
    // A misspelt key would otherwise have no effect, and nobody would notice.
    for variable in config.unknown_variables.iter().filter(|name| *name != SECRET_VARIABLE) {
        tracing::warn!("The environment variable {variable} has no effect: there is no such key");
    }
    let (secret, origin) = Secret::load(&config.sqlite_path)?;
    tracing::info!("Tokens are signed with the secret in {origin}");
    let app = SampleApp::new(Tokens::new(&secret, TOKEN_LIFETIME));
    Server::builder(config).app(app).catch_signals().start().await?.run_until_signal().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample_server: {error}");
            ExitCode::FAILURE
        }
    }
}
