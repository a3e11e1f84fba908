//! `jmqt`: the command line of the client.
//!
//! What can be said is in `arguments`, each command in a file of its own; here: settings, time limit, the end.

mod arguments;
mod bench;
mod doctor;
mod failure;
mod ping;
mod publish;
mod subscribe;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use jmqt_client::{AuthToken, ChannelName, Client, ClientId, Config, Endpoint, Payload, Secret, logging};

use arguments::{Arguments, Command, ConnectionArguments, Shell};
use failure::Failure;

/// Where a command's output goes, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Prints a line: the words, or the JSON object for programs.
    pub(crate) fn line<J: std::fmt::Display>(
        self,
        words: impl FnOnce() -> String,
        json: impl FnOnce() -> J,
    ) -> Result<(), Failure> {
        let line = if self.json { json().to_string() } else { words() };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Failure::from)
    }

    /// Whether somebody watches who wants to see progress.
    pub(crate) fn is_watched(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output { json: arguments.connection.json };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                note(format_args!("{}", failure.message));
                if output.json {
                    let error = serde_json::json!({ "error": failure.message, "exit_code": failure.code() });
                    // Whoever reads it may have gone.
                    let _ = writeln!(std::io::stdout(), "{error}");
                }
            }
            failure.exit_code()
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut command = Arguments::command();
    match arguments.command {
        Command::Completions { shell } => {
            return complete(shell, &mut command);
        }
        Command::Man { command: name } => return manual(command, name.as_deref()),
        _ => {}
    }
    let named = random_name()?;
    let config = configure(&arguments.connection, &named)?;
    if let Command::Sub { persistent: true, .. } = &arguments.command
        && config.auth_data == Some(named_secret(&named))
    {
        return Err(Failure::usage(
            "--persistent keeps the subscription for a client that comes back: say who that is, with --name NAME",
        ));
    }
    let log = logging::LogConfig::new(
        if arguments.connection.verbose { logging::LogMode::Debug } else { logging::LogMode::Disabled },
        config.log.path.clone(),
    );
    let _log = logging::init("jmqt", &log).map_err(Failure::new)?;
    let output = Output { json: arguments.connection.json };
    let limit = arguments.connection.timeout;
    let is_bench = matches!(arguments.command, Command::Bench { .. });
    let work = carry_out(arguments.command, config, limit, output);
    let limited = async {
        match limit.filter(|_| !is_bench) {
            None => work.await,
            Some(limit) => {
                tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Failure::timeout()))
            }
        }
    };
    tokio::select! {
        done = limited => done,
        interrupted = interrupted() => interrupted,
    }
}

/// Waits for SIGINT or SIGTERM, which as process 1 of a container nobody else takes notice of.
async fn interrupted() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Failure::from),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(Failure::from)
}

/// Says something on standard error that is not the command's result.
pub(crate) fn note(words: std::fmt::Arguments<'_>) {
    // Whoever reads it may have gone.
    let _ = writeln!(std::io::stderr(), "jmqt: {words}");
}

fn manual(mut command: clap::Command, name: Option<&str>) -> Result<(), Failure> {
    command.build(); // gives subcommands the options of all
    let command = match name {
        None => command,
        Some(name) => {
            let found = command.get_subcommands().find(|found| found.get_name() == name).cloned();
            found.ok_or_else(|| Failure::usage(format!("{name}: there is no such command")))?
        }
    };
    clap_mangen::Man::new(command).render(&mut std::io::stdout()).map_err(Failure::from)
}

async fn carry_out(
    command: Command,
    config: Config,
    limit: Option<Duration>,
    output: Output,
) -> Result<(), Failure> {
    match command {
        Command::Sub { channels, persistent, count, headers, time, format } => {
            let shown = match format {
                Some(format) => subscribe::Shown::Format(format),
                None => subscribe::Shown::Data { headers, time },
            };
            let wanted = subscribe::Wanted { channels, persistent, count, shown };
            subscribe::run(config, wanted, output).await
        }
        Command::Unsub { channels } => subscribe::unsubscribe(config, channels, output).await,
        Command::Pub { channel, input } => {
            publish::run(config, self::channel(&channel)?, input, output).await
        }
        Command::P2p { client, input } => {
            let client =
                ClientId::parse(client.strip_prefix('#').unwrap_or(&client)).map_err(Failure::usage)?;
            publish::run(config, ChannelName::of_client(&client), input, output).await
        }
        Command::Request { channel, data } => request(config, &channel, data, output).await,
        Command::Ping { count, interval } => ping::run(config, count, interval, output).await,
        Command::Bench { seconds, size, qos, rate, window, channel } => {
            let time = Duration::from_secs(seconds);
            let time = limit.map_or(time, |limit| limit.min(time));
            let load = bench::Load { time, size: size as usize, qos, rate, window, channel };
            bench::run(config, load, output).await
        }
        Command::Doctor => doctor::run(config, output).await,
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}

fn complete(shell: Shell, command: &mut clap::Command) -> Result<(), Failure> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new(); // `generate` would panic where nobody reads on
    clap_complete::generate(shell, command, "jmqt", &mut script);
    std::io::stdout().write_all(&script).map_err(Failure::from)
}

/// File, then environment, then options.
fn configure(arguments: &ConnectionArguments, unnamed: &str) -> Result<Config, Failure> {
    let mut config = Config::load(arguments.config.as_deref())?;
    if let Some(url) = &arguments.url {
        config.endpoints = Endpoint::list(url).map_err(Failure::usage)?;
    }
    if let Some(json) = &arguments.auth {
        config.auth_data =
            Some(Secret::parse(json).map_err(|_| Failure::usage("--auth: one JSON value was expected"))?);
    }
    if let Some(name) = &arguments.name {
        config.auth_data = Some(named_secret(name));
    }
    if let (Some(client), Some(token)) = (&arguments.client_id, &arguments.token) {
        config.token =
            Some((ClientId::parse(client).map_err(Failure::usage)?, AuthToken::new(token.as_str())));
    }
    if config.auth_data.is_none() && config.token.is_none() {
        config.auth_data = Some(named_secret(unnamed));
    }
    if let Some(path) = &arguments.ca {
        config.tls.ca_path = Some(path.clone());
    }
    if let Some(name) = &arguments.server_name {
        config.tls.server_name = Some(name.clone());
    }
    Ok(config)
}

/// What our sample servers authenticate by.
fn named_secret(name: &str) -> Secret {
    Secret::parse(&serde_json::json!({ "client_name": name }).to_string())
        .expect("an object of one string is JSON")
}

/// The same server, as another client: measurements need two.
pub(crate) fn second(mut config: Config) -> Result<Config, Failure> {
    config.token = None;
    config.auth_data = Some(named_secret(&random_name()?));
    Ok(config)
}

/// A name that nobody else has: process ids repeat, from one container to the next and from one day to another.
pub(crate) fn random_name() -> Result<String, Failure> {
    let random = getrandom::u64()
        .map_err(|error| Failure::new(format!("the system has no random numbers: {error}")))?;
    Ok(format!("jmqt-{random:016x}"))
}

pub(crate) fn channel(name: &str) -> Result<ChannelName, Failure> {
    ChannelName::parse(name).map_err(Failure::usage)
}

async fn request(config: Config, name: &str, data: Option<String>, output: Output) -> Result<(), Failure> {
    let name = if name.starts_with('$') { name.to_owned() } else { format!("${name}") };
    let channel = channel(&name)?;
    let data = data.as_deref().map(Payload::parse).transpose().map_err(Failure::usage)?;
    let client = Client::connect(config).await?;
    let reply = client.request(&channel, data).await;
    client.close().await;
    let reply = reply?;
    let shown = reply.data().unwrap_or("null");
    output.line(
        || shown.to_owned(),
        || serde_json::json!({ "data": serde_json::from_str::<serde_json::Value>(shown).unwrap_or_default() }),
    )
}
