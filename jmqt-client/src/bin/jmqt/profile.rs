//! Profiles: a server and who we are there, under a name. Each is a `client.conf` in the user's configuration folder.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use jmqt_client::mqtt::Options;
use jmqt_client::{Config, ConfigError};
use serde_json::{Value, json};

use crate::arguments::{ConnectionArguments, ProfileCommand};
use crate::{Failure, Output, mqtt, named_json};

/// The file of this profile, which need not be there.
pub(crate) fn path(name: &str) -> Result<PathBuf, Failure> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err(Failure::usage(format!(
            "{name:?} is not a valid profile name; use letters, digits, `-`, `_` and `.`"
        )));
    }
    Ok(folder()?.join(format!("{name}.conf")))
}

/// The file of this profile.
pub(crate) fn existing(name: &str) -> Result<PathBuf, Failure> {
    let path = path(name)?;
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::usage(format!(
        "no profile {name}: {} does not exist; `jmqt profile list` lists the profiles",
        path.display()
    )))
}

fn folder() -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        variable("APPDATA")
    } else {
        variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")))
    };
    let missing = if cfg!(windows) { "APPDATA" } else { "HOME" };
    base.map(|base| base.join("jmqt"))
        .ok_or_else(|| Failure::usage(format!("no folder for profiles: {missing} is not set")))
}

pub(crate) fn run(
    command: ProfileCommand,
    connection: &ConnectionArguments,
    output: Output,
) -> Result<(), Failure> {
    match command {
        ProfileCommand::List => list(output),
        ProfileCommand::Save { profile, force } => save(&profile, force, connection, output),
        ProfileCommand::Remove { profile } => {
            let path = existing(&profile)?;
            fs::remove_file(&path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
            output.line(|| format!("removed {}", path.display()), || json!({ "removed": profile }))
        }
    }
}

fn list(output: Output) -> Result<(), Failure> {
    let folder = folder()?;
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::new(format!("{}: {error}", folder.display()))),
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // Without the environment: what the profile itself says.
        let servers = servers(&path).unwrap_or_else(|error| format!("unusable: {error}"));
        output.line(|| format!("{name:<16} {servers}"), || json!({ "profile": name, "url": servers }))?;
    }
    Ok(())
}

/// The servers of a profile, without user names and passwords.
fn servers(path: &Path) -> Result<String, ConfigError> {
    let nothing = std::iter::empty::<(&str, &str)>;
    let servers: Vec<_> = if Options::are_meant(Some(path), nothing())? {
        let options = Options::load_with(Some(path), nothing())?;
        options.servers.iter().map(ToString::to_string).collect()
    } else {
        let config = Config::load_with(Some(path), nothing())?;
        config.endpoints.iter().map(ToString::to_string).collect()
    };
    Ok(servers.join(","))
}

/// Writes the options of this call as a profile that nobody but the user can read: there may be a token in it.
fn save(profile: &str, force: bool, connection: &ConnectionArguments, output: Output) -> Result<(), Failure> {
    let path = path(profile)?;
    let text = settings(connection)?;
    // What cannot be used is not saved.
    let nothing = std::iter::empty::<(&str, &str)>();
    if mqtt::is_meant(connection, None)? {
        Options::from_text(&text, nothing)?;
    } else {
        Config::from_text(&text, nothing)?;
    }
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} already exists; --force replaces it", path.display()))
        }
        _ => Failure::new(format!("{}: {error}", path.display())),
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    if force {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    output.line(|| format!("saved {}", path.display()), || json!({ "saved": profile }))
}

/// The options as lines of a `client.conf`.
fn settings(connection: &ConnectionArguments) -> Result<String, Failure> {
    let file = |path: &Option<PathBuf>| -> Result<Option<String>, Failure> {
        let absolute = |path: &PathBuf| std::path::absolute(Path::new(path)).map_err(Failure::from);
        Ok(path.as_ref().map(absolute).transpose()?.map(|path| path.to_string_lossy().into_owned()))
    };
    let is_mqtt = mqtt::is_meant(connection, None)?;
    let name = connection.name.as_deref();
    let auth = connection.auth.clone().or_else(|| name.filter(|_| !is_mqtt).map(named_json));
    let client = connection.client_id.clone().or_else(|| name.filter(|_| is_mqtt).map(str::to_owned));
    let settings = [
        ("URL", connection.url.as_deref().map(|url| mqtt::as_mqtt(url, connection.mqtt))),
        ("MQTT_VERSION", connection.v3.then(|| "3.1.1".to_owned())),
        ("SSL_CA_PATH", file(&connection.ca)?),
        ("SSL_CERT_PATH", file(&connection.cert)?),
        ("SSL_KEY_PATH", file(&connection.key)?),
        ("SSL_SERVER_NAME", connection.server_name.clone()),
        ("AUTH_DATA", auth),
        ("CLIENT_ID", client),
        ("TOKEN", connection.token.clone()),
        ("TOKEN_PATH", file(&connection.token_file)?),
    ];
    let lines: Vec<_> = settings
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}\n", quoted(&value?))))
        .collect();
    if lines.is_empty() {
        return Err(Failure::usage(
            "nothing to save: add the options of the profile, such as --url and --name",
        ));
    }
    Ok(lines.concat())
}

/// A text of JSON is one of TOML, but for one character that TOML wants escaped.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
