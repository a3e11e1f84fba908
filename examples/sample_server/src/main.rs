//! The sample server: the application to run first, and to start one's own from.
//!
//! `cargo run --release --bin sample_server -- --config server.conf`
//!
//! Then open the address that it prints, <http://localhost:8000/>: a client in a page.
//!
//! What it decides is in [`app`], how it tells who comes and goes in [`presence`], how the page is served in [`web`].
//! Here: arguments, start, end.

mod app;
mod presence;
mod web;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use jmqt_server::tokens::{SECRET_FILE_VARIABLE, SECRET_VARIABLE, TokenIssuer, TokenSecret};
use jmqt_server::{BoxError, Config, Protocol, Server, exit_code, logging};

use crate::app::SampleApp;
use crate::web::{PageConfig, WebListener, WebPort};

/// What is read where no `--config` is given.
const DEFAULT_CONFIG: &str = "server.conf";
/// Where the web page is served, unless `--web-port` says otherwise.
const DEFAULT_WEB_PORT: u16 = 8000;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file; without one, `server.conf` if it is there, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to serve the web page: a port, `any` for a free one, 0 for no page [default: 8000, or a free
    /// one if that is taken]
    #[arg(long, value_name = "PORT")]
    web_port: Option<WebPort>,
    /// What the web page connects to, as browsers see it: needed if a proxy is in front of this server and
    /// the page cannot know
    #[arg(long, value_name = "URL", value_parser = websocket_url)]
    websocket_url: Option<String>,
    /// Check configuration, environment, certificate and key, say what is wrong, and end without starting the server
    #[arg(long)]
    check: bool,
}

impl Arguments {
    /// A file that was named must exist, which is for [`Config::load`] to say; the default one need not.
    fn config_file(&self) -> Option<PathBuf> {
        let default =
            || Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| !matches!(path.try_exists(), Ok(false)));
        self.config.clone().or_else(default)
    }
}

/// Variables that are not keys.
fn is_known(variable: &str) -> bool {
    [SECRET_VARIABLE, SECRET_FILE_VARIABLE].contains(&variable)
}

fn websocket_url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("wss://").or_else(|| text.strip_prefix("ws://"));
    if host.is_some_and(|host| !host.is_empty() && !host.starts_with('/')) {
        return Ok(text.to_owned());
    }
    Err("expected an address such as wss://example.com/jmqt".into())
}

/// Binds the page's port. One that was asked for must be free; in place of the default one any other will do, because
/// its address is printed.
async fn bind_web(ip: IpAddr, port: Option<WebPort>) -> Result<Option<WebListener>, BoxError> {
    let number = match port {
        Some(WebPort::None) => return Ok(None),
        Some(WebPort::Any) => 0,
        Some(WebPort::Fixed(number)) => number,
        None => DEFAULT_WEB_PORT,
    };
    let address = SocketAddr::new(ip, number);
    match WebListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if port.is_none() && error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!("Port {number} is in use: the web page uses a free port (choose one with --web-port)");
            let listener = WebListener::bind(SocketAddr::new(ip, 0)).await;
            Ok(Some(listener.map_err(|error| format!("cannot listen on {ip} for the web page: {error}"))?))
        }
        Err(error) => Err(format!(
            "cannot listen on {address} for the web page: {error} (choose another port with --web-port, or `any`)"
        )
        .into()),
    }
}

/// Says whether the server would start, as far as that can be known without starting it.
fn check(arguments: &Arguments) -> Result<(), BoxError> {
    let file = arguments.config_file();
    let config = Config::load(file.as_deref())?;
    config.check()?;
    TokenSecret::check(&config)?;
    for variable in config.unknown_variables.iter().filter(|name| !is_known(name)) {
        println!("The environment variable {variable} has no effect: there is no such key");
    }
    match file {
        Some(file) => println!("{}, with the environment: the configuration is usable", file.display()),
        None => println!("There is no {DEFAULT_CONFIG} here; the defaults, with the environment, are usable"),
    }
    Ok(())
}

async fn run(arguments: Arguments) -> Result<(), BoxError> {
    if arguments.check {
        return check(&arguments);
    }
    let file = arguments.config_file();
    let config = Config::load(file.as_deref())?;
    let _log = logging::init("JMQTServer", &config.log)?;
    match &file {
        Some(file) => tracing::info!("Configured by {}", file.display()),
        None => tracing::info!("No {DEFAULT_CONFIG} in the working directory: using the defaults"),
    }
    // A misspelt key would otherwise have no effect, and nobody would notice.
    for variable in config.unknown_variables.iter().filter(|name| !is_known(name)) {
        tracing::warn!("The environment variable {variable} has no effect: there is no such key");
    }
    let secret = TokenSecret::load(&config)?;
    tracing::info!("Tokens are signed with the secret in {}", secret.origin());
    tracing::info!(
        "Each session is logged when it begins and when it ends; LOG_MODE = \"WRN\" leaves that out"
    );
    let app = Arc::new(SampleApp::new(TokenIssuer::new(&secret)));
    let page = bind_web(config.bind_address, arguments.web_port).await?;
    let reread = move || Config::load(file.as_deref());
    let server = Server::builder(config)
        .app(Arc::clone(&app))
        .on_open(app)
        .catch_signals()
        .reload_with(reread)
        .start()
        .await?;
    let port = |protocol| server.local_addr(protocol).map(|address| address.port());
    let web = page.map(|page| {
        page.serve(&PageConfig {
            websocket_port: port(Protocol::WebSocket),
            tls_websocket_port: port(Protocol::SslWebSocket),
            websocket_url: arguments.websocket_url,
        })
    });
    server.run_until_signal().await?;
    if let Some(web) = web {
        web.stop().await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample_server: {error}");
            // As after wrong arguments: starting it again will not help.
            exit_code(&*error)
        }
    }
}
