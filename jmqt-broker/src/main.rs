//! `jmqtd`: a JMQT and MQTT broker for those who write no Rust. Who may log in, and who may read and write what, is in its
//! configuration.
//!
//! Here: arguments, start, end. [`settings`] reads the keys that a server of `jmqt-server` does not have, [`check`] says what a
//! configuration means, [`files`] applies what changes while the broker runs, [`passwd`] changes password files, [`backend`] is a web
//! backend that decides.

mod admin_key;
mod backend;
mod check;
mod files;
mod health;
mod passwd;
mod reload;
mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jmqt_server::ready::{CacheOptions, Cached, Login};
use jmqt_server::tokens::{SECRET_FILE_VARIABLE, SECRET_VARIABLE, TokenIssuer, TokenSecret};
use jmqt_server::{AllowAll, BoxError, DenyAll, Server, exit_code, logging};

use files::Files;
use settings::{RuleSettings, Settings};

/// A JMQT and MQTT broker. Who may log in, and who may read and write what, is in its configuration.
#[derive(Debug, Parser)]
#[command(
    name = "jmqtd",
    version,
    after_help = "SIGHUP reads all files again and says what waits for a restart, SIGTERM and SIGINT end the broker in order. Password, key and rule \
        files are read again when they change.",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "jmqtd.conf")]
    config: PathBuf,
    /// Check the configuration and all files that it names, say what they mean, and end
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key for the admin API, and add its hash to a file. Creates the file if it is missing
    ///
    /// Prints the key, which is stored nowhere else. A broker that is running reads the file again within three seconds.
    AdminKey {
        /// The file with the keys (ADMIN_KEYS_FILE)
        file: PathBuf,
        /// The name of its owner; a name may have several keys
        name: String,
        /// What the owner may do: read metrics, read everything, or change things
        #[arg(long, default_value = "read", value_parser = ["metrics", "read", "write"])]
        scope: String,
        /// Remove all keys with this name
        #[arg(long, conflicts_with = "scope")]
        delete: bool,
    },
    /// Add a user to a password file, or change the password. Creates the file if it is missing
    ///
    /// Asks for the password; without a terminal, reads it from the first line of the input. A broker that is running reads the
    /// file again within three seconds.
    Passwd {
        /// The password file
        file: PathBuf,
        /// The name of the user
        user: String,
        /// Remove the user
        #[arg(long)]
        delete: bool,
    },
    /// Ask the broker that runs on this machine with the configuration whether it is well: exit code 0 or 1
    ///
    /// Asks for /healthz on WEBSOCKET_PORT, or connects to another port if there is none. For the health check of a container.
    Health {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = "jmqtd.conf")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Passwd { file, user, delete: true }) => passwd::remove(&file, &user),
        Some(Command::Passwd { file, user, delete: false }) => passwd::set(&file, &user),
        Some(Command::Health { config }) => health::ask(&config),
        Some(Command::AdminKey { file, name, delete: true, .. }) => admin_key::remove(&file, &name),
        Some(Command::AdminKey { file, name, scope, .. }) => admin_key::add(&file, &name, &scope),
        None if arguments.check => check::run(&arguments.config),
        None => return jmqt_server::run(serve(arguments.config)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", logging::with_causes(&*error));
            exit_code(&*error)
        }
    }
}

async fn serve(file: PathBuf) -> Result<(), BoxError> {
    let Settings { server: config, login, rules, http, given } = Settings::load(&file)?;
    let _log = logging::init("jmqtd", &config.log)?;
    tracing::info!("Configured by {}", file.display());
    // A misspelt key would otherwise have no effect, and nobody would notice.
    for variable in config
        .unknown_variables
        .iter()
        .filter(|name| ![SECRET_VARIABLE, SECRET_FILE_VARIABLE].contains(&name.as_str()))
    {
        tracing::warn!("The environment variable {variable} has no effect: there is no such key");
    }
    let secret = TokenSecret::load(&config)?;
    for warning in check::warnings(&config, &rules) {
        tracing::warn!("{warning}");
    }
    let mut files = Files::default();
    let login: Login = login.open(&http, TokenIssuer::new(&secret), &mut files)?;
    let builder = Server::builder(config).validate_auth(login.clone()).validate_conn(login);
    let builder = match (&rules, rules.open()?) {
        (RuleSettings::Http, _) => {
            let backend = http.open(http.acl_url.as_deref().unwrap_or_default())?;
            if http.acl_cache.is_zero() {
                builder.validate_sub(backend.clone()).validate_pub(backend)
            } else {
                let options = CacheOptions { allowed: http.acl_cache, ..CacheOptions::default() };
                let cached = Cached::new(backend, options);
                builder.validate_sub(cached.clone()).validate_pub(cached)
            }
        }
        (RuleSettings::File(path), Some(opened)) => {
            files.add_rules(path, &opened);
            builder.validate_sub(opened.clone()).validate_pub(opened)
        }
        (RuleSettings::AllowAll, _) => builder.validate_sub(AllowAll).validate_pub(AllowAll),
        (RuleSettings::File(_), None) => builder.validate_sub(DenyAll).validate_pub(DenyAll),
    };
    let builder = match &http.request_url {
        Some(url) => builder.handle_control(http.open(url)?),
        None => builder,
    };
    let reread = {
        let files = files.clone();
        move || reload::run(&file, &given, &files)
    };
    let server = builder.catch_signals().reload_with(reread).start().await?;
    let handle = server.handle();
    tokio::select! {
        stopped = server.run_until_signal() => stopped?,
        () = files.apply_changes(handle) => {}
    }
    Ok(())
}
