//! `jmqt`: the command line of the client.
//!
//! What can be said is in `arguments`, each command in a file of its own; here: settings, time limit, the end.

mod admin;
mod again;
mod arguments;
mod bench;
mod codec;
mod doctor;
mod failure;
mod findings;
mod mqtt;
mod peer;
mod ping;
mod profile;
mod publish;
mod reply;
mod subscribe;
mod template;
mod terminal;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use jmqt_client::{
    AuthToken, ChannelName, Client, ClientId, Config, Direction, Endpoint, InvalidUrl, Payload, Secret,
    logging,
};

use again::Again;
use arguments::{
    Arguments, BenchArguments, Command, ConnectionArguments, Input, PubMqtt, RequestMqtt, Shell, SubMqtt,
};
use failure::Failure;
use peer::Target;

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
                    // The reader may have closed it.
                    let _ = writeln!(std::io::stdout(), "{}", failure.json());
                }
            }
            failure.exit_code()
        }
    }
}

const ONLY_MQTT: &str = "an option that needs an MQTT server (--url mqtt://host)";

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = Output { json: arguments.connection.json };
    match arguments.command {
        Command::Completions { shell } => {
            return complete(shell, &mut Arguments::command());
        }
        Command::Man { command, directory } => return manual(command.as_deref(), directory.as_deref()),
        Command::Admin(admin) => {
            let limit = arguments.connection.timeout;
            let work = admin::run(*admin, output);
            return match limit {
                None => work.await,
                Some(limit) => {
                    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Failure::timeout()))
                }
            };
        }
        Command::Profile { command } => return profile::run(command, &arguments.connection, output),
        _ => {}
    }
    let file = file(&arguments.connection)?;
    if mqtt::is_meant(&arguments.connection, file.as_deref())? {
        let limit = arguments.connection.timeout.filter(|_| !matches!(arguments.command, Command::Bench(_)));
        let work = mqtt::run(arguments, file.as_deref());
        let limited = async {
            match limit {
                None => work.await,
                Some(limit) => {
                    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Failure::timeout()))
                }
            }
        };
        return tokio::select! {
            done = limited => done,
            interrupted = interrupted() => interrupted,
        };
    }
    let (config, is_named) = configure(&arguments.connection, file.as_deref())?;
    match &arguments.command {
        Command::Sub { mqtt, .. } if **mqtt != SubMqtt::default() => {
            return Err(Failure::usage(format!("{ONLY_MQTT}: see jmqt sub --help")));
        }
        Command::Pub { mqtt, .. } | Command::P2p { mqtt, .. } if *mqtt != PubMqtt::default() => {
            return Err(Failure::usage(format!("{ONLY_MQTT}: see jmqt pub --help")));
        }
        Command::Doctor { topic: Some(_) } => {
            return Err(Failure::usage(format!("{ONLY_MQTT}: --topic")));
        }
        Command::Request { mqtt, .. } if *mqtt != RequestMqtt::default() => {
            return Err(Failure::usage(format!("{ONLY_MQTT}: see jmqt request --help")));
        }
        Command::Pub { input: Input { qos: Some(2), .. }, .. }
        | Command::P2p { input: Input { qos: Some(2), .. }, .. } => {
            return Err(Failure::usage("--qos 2: JMQT has 0 and 1"));
        }
        Command::Bench(BenchArguments { qos: 2, .. }) => {
            return Err(Failure::usage("--qos 2: JMQT has 0 and 1"));
        }
        Command::Sub { persistent: true, .. } if !is_named => {
            return Err(Failure::usage(
                "--persistent keeps the subscription for a client that reconnects under the same name: add --name NAME",
            ));
        }
        Command::Unsub { .. } if !is_named => {
            return Err(Failure::usage(
                "unsub ends the subscription of a client with a name: add --name NAME",
            ));
        }
        _ => {}
    }
    let again = Again::new(&arguments.connection, is_named);
    let log = logging::LogConfig::new(
        if arguments.connection.verbose { logging::LogMode::Debug } else { logging::LogMode::Disabled },
        config.log.path.clone(),
    );
    let _log = logging::init("jmqt", &log).map_err(Failure::new)?;
    let limit = arguments.connection.timeout;
    let is_bench = matches!(arguments.command, Command::Bench(_));
    let work = carry_out(arguments.command, config, &again, limit, output);
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
    // The reader may have closed it.
    let _ = writeln!(std::io::stderr(), "jmqt: {words}");
}

fn manual(name: Option<&str>, directory: Option<&Path>) -> Result<(), Failure> {
    let mut command = Arguments::command();
    command.build(); // gives subcommands the options of all
    if let Some(directory) = directory {
        let written = clap_mangen::generate_to(command, directory);
        return written.map_err(|error| Failure::new(format!("{}: {error}", directory.display())));
    }
    let command = match name {
        None => command,
        Some(name) => {
            let found = command.get_subcommands().find(|found| found.get_name() == name).cloned();
            found.ok_or_else(|| Failure::usage(format!("{name}: no such command")))?
        }
    };
    clap_mangen::Man::new(command).render(&mut std::io::stdout()).map_err(Failure::from)
}

async fn carry_out(
    command: Command,
    config: Config,
    again: &Again,
    limit: Option<Duration>,
    output: Output,
) -> Result<(), Failure> {
    match command {
        Command::Sub { channels, filters, persistent, count, headers, time, format, .. } => {
            let shown = match format {
                Some(format) => subscribe::Shown::Format(format),
                None => subscribe::Shown::Data { headers, time },
            };
            let wanted = subscribe::Wanted { channels, filters, persistent, count, shown };
            subscribe::run(config, wanted, again, output).await
        }
        Command::Unsub { channels } => subscribe::unsubscribe(config, channels, output).await,
        Command::Pub { channel, input, .. } => {
            publish::run(config, self::channel(&channel)?, input, output).await
        }
        Command::P2p { input: Input { clear: true, .. }, .. } => {
            Err(Failure::usage("--clear: point-to-point channels have no retained message"))
        }
        Command::P2p { client, input, .. } => {
            let client =
                ClientId::parse(client.strip_prefix('#').unwrap_or(&client)).map_err(Failure::usage)?;
            publish::run(config, ChannelName::of_client(&client), input, output).await
        }
        Command::Request { channel, data, .. } => request(config, &channel, data, output).await,
        Command::Reply { channel, answer, command, template, text, qos, count } => {
            let answer = match (answer.unwrap_or_default(), command) {
                (_, Some(command)) => reply::Answer::Command(command),
                (answer, None) if template => reply::Answer::Template(answer),
                (answer, None) => reply::Answer::Text(answer),
            };
            let wanted = reply::Wanted { channel, answer, is_text: text, qos, count };
            reply::run(config, wanted, output).await
        }
        Command::Ping { count, interval } => ping::run(config, count, interval, output).await,
        Command::Bench(load) => bench::run(Target::Jmqt(Box::new(config)), load, limit, output).await,
        Command::Doctor { .. } => doctor::run(config, output).await,
        Command::Admin(_) | Command::Completions { .. } | Command::Man { .. } | Command::Profile { .. } => {
            Ok(())
        }
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

/// The configuration that the options name: a file, or a profile.
fn file(arguments: &ConnectionArguments) -> Result<Option<PathBuf>, Failure> {
    let profile = match (&arguments.config, &arguments.profile) {
        (None, None) => std::env::var("JMQT_PROFILE").ok().filter(|name| !name.is_empty()),
        (_, profile) => profile.clone(),
    };
    let profile = profile.as_deref().map(profile::existing).transpose()?;
    Ok(arguments.config.clone().or(profile))
}

/// File or profile, then environment, then options. `true` if somebody said who we are.
fn configure(arguments: &ConnectionArguments, file: Option<&Path>) -> Result<(Config, bool), Failure> {
    let mut config = match &arguments.url {
        None => Config::load(file)?,
        Some(url) => {
            let mut config = Config::load_with(file, mqtt::without_url())?;
            config.endpoints = Endpoint::list(url).map_err(bad_url)?;
            config
        }
    };
    arguments.set_tls(&mut config.tls);
    if arguments.insecure {
        note(format_args!(
            "WARNING: --insecure: the server's certificate is not checked. Anybody on the way can be the server, and read \
             and change everything, tokens and auth data included"
        ));
    }
    config.websocket_headers.extend(arguments.websocket_headers.iter().cloned());
    if arguments.trace {
        config = config.trace(show_packet);
    }
    config = identify(config, arguments)?;
    if config.auth_data.is_some() || config.token.is_some() || config.has_credentials() {
        return Ok((config, true));
    }
    Ok((authenticate_with(config, &named_json(&random_name()?)), false))
}

/// Without a scheme nobody can tell which kind of server is meant.
fn bad_url(error: InvalidUrl) -> Failure {
    Failure::usage(format!("--url: {error}, and with an MQTT server mqtt://host:1883 or mqtts://host:8883"))
}

/// As whom to connect, if options say so.
fn identify(mut config: Config, arguments: &ConnectionArguments) -> Result<Config, Failure> {
    if let Some(json) = &arguments.auth {
        Secret::parse(json).map_err(|_| Failure::usage("--auth: one JSON value was expected"))?;
        config = authenticate_with(config, json);
    }
    if let Some(name) = &arguments.name {
        config = authenticate_with(config, &named_json(name));
    }
    let Some(client) = &arguments.client_id else { return Ok(config) };
    let client = ClientId::parse(client).map_err(Failure::usage)?;
    match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => {
            // Auth data stays: a new token is asked for when this one is refused.
            let auth_data = config.auth_data.take();
            config = config.without_credentials();
            (config.auth_data, config.token) = (auth_data, Some((client, AuthToken::new(token.as_str()))));
            Ok(config)
        }
        (None, Some(path)) => Ok(config.token_file(client, path)),
        (None, None) => Err(Failure::usage("--client-id needs a token: add --token-file FILE")),
    }
}

/// Shows what goes over the wire.
fn show_packet(direction: Direction, packet: &str) {
    let sign = match direction {
        Direction::Sent => '>',
        Direction::Received => '<',
    };
    let line = terminal::noted(format!("{} {sign} {packet}", terminal::now()));
    // The reader may have closed it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What our sample servers authenticate by.
pub(crate) fn named_json(name: &str) -> String {
    serde_json::json!({ "client_name": name }).to_string()
}

/// The same configuration, with this auth data and nothing else to say who we are.
fn authenticate_with(config: Config, json: &str) -> Config {
    let mut config = config.without_credentials();
    config.auth_data = Some(Secret::parse(json).expect("the caller has JSON"));
    config
}

/// The same server, as another client: measurements need two.
pub(crate) fn second(config: Config) -> Result<Config, Failure> {
    Ok(authenticate_with(config, &named_json(&random_name()?)))
}

/// A name that nobody else has: process ids repeat, from one container to the next and from one day to another.
pub(crate) fn random_name() -> Result<String, Failure> {
    Ok(format!("jmqt-{}", random_digits()?))
}

/// 16 hexadecimal digits.
pub(crate) fn random_digits() -> Result<String, Failure> {
    let random = getrandom::u64()
        .map_err(|error| Failure::new(format!("the system has no random numbers: {error}")))?;
    Ok(format!("{random:016x}"))
}

pub(crate) fn channel(name: &str) -> Result<ChannelName, Failure> {
    ChannelName::parse(name).map_err(Failure::usage)
}

async fn request(config: Config, name: &str, data: Option<String>, output: Output) -> Result<(), Failure> {
    let name = if name.starts_with('$') { name.to_owned() } else { format!("${name}") };
    let channel = channel(&name)?;
    let data = data.as_deref().map(Payload::parse).transpose().map_err(|error| {
        Failure::usage(format!("request {channel}: {error}; text needs double quotes in JSON"))
    })?;
    let client = Client::connect(config).await?;
    let reply = client.request(&channel, data).await;
    client.close().await;
    let reply = reply.map_err(|error| {
        let hint = failure::meaning("request", &error);
        Failure::of_request("request", &channel, hint, error)
    })?;
    let shown = reply.data().unwrap_or("null");
    output.line(
        || shown.to_owned(),
        || serde_json::json!({ "data": serde_json::from_str::<serde_json::Value>(shown).unwrap_or_default() }),
    )
}
