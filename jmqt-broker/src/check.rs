//! `jmqtd --check`: says what a configuration means, without starting the broker.

use std::path::Path;

use jmqt_server::ready::{CertificateName, ClientIds, IdentitySource as _};
use jmqt_server::{BoxError, Config};

use crate::backend::HttpSettings;
use crate::settings::{LoginSettings, RuleSettings, Settings, Source, open_passwords};

/// Reads the configuration and all files that it names, and prints what they mean.
pub(crate) fn run(file: &Path) -> Result<(), BoxError> {
    let Settings { server, login, rules, http, .. } = Settings::load(file)?;
    server.check()?;
    let lines = [
        listeners(&server),
        logins(&login, &http)?,
        client_ids(&login),
        access(&rules, &http)?,
        requests(&http)?,
        store(&server),
        operators(&server)?,
    ]
    .concat();
    println!("{}: the configuration can be used", file.display());
    for line in lines {
        println!("  {line}");
    }
    for warning in [warnings(&server, &rules), warnings_of_files(&server, &login, &rules)?].concat() {
        println!("warning: {warning}");
    }
    Ok(())
}

/// What can be used and may not be meant.
pub(crate) fn warnings(server: &Config, rules: &RuleSettings) -> Vec<String> {
    let mut warnings = Vec::new();
    let has_open_ports =
        server.socket_port.or(server.websocket_port).or(server.mqtt_port).or(server.mqtt_websocket_port);
    if !server.bind_address.is_loopback() && has_open_ports.is_some() {
        warnings.push(
            "other machines can connect without TLS: what they send, also passwords, can be read on the way (ENABLE_SSL, and no port \
                without TLS)"
                .to_owned(),
        );
    }
    if *rules == RuleSettings::AllowAll {
        warnings.push("every client may read and write everything (ACL = \"none\")".to_owned());
    }
    warnings
}

/// The same, of the files that the configuration names.
fn warnings_of_files(
    server: &Config,
    login: &LoginSettings,
    rules: &RuleSettings,
) -> Result<Vec<String>, BoxError> {
    let mut warnings = Vec::new();
    let opened = rules.open()?;
    let mut passwords = None;
    for source in &login.sources {
        if let Source::PasswordFile(file) = source {
            let users = open_passwords(file)?;
            if users.is_empty() {
                let file = file.display();
                warnings
                    .push(format!("{file} has no user: `jmqtd passwd {file} NAME` adds one (PASSWORD_FILE)"));
            }
            passwords = Some(users);
        }
    }
    if let (RuleSettings::File(file), Some(rules)) = (rules, opened.map(|opened| opened.rules())) {
        let file = file.display();
        for (line, name) in rules.unknown_names() {
            warnings.push(format!(
                "{file}, line {line}: {name} is text here; names are %u (the user) and %c (the client id)"
            ));
        }
        let knows_all =
            login.sources.iter().all(|source| matches!(source, Source::PasswordFile(_) | Source::Anonymous));
        for (line, user) in rules.users().filter(|_| knows_all) {
            if !passwords.as_ref().is_some_and(|users| users.has_user(user)) {
                warnings.push(format!("{file}, line {line}: there is no user {user:?}"));
            }
        }
    }
    warnings.extend(secrets(server, login).filter(|path| is_public(path)).map(|path| {
        let path = path.display();
        format!("every user of this machine has access to {path}: chmod o-rwx {path}")
    }));
    Ok(warnings)
}

/// The files that only the broker should be able to read.
fn secrets<'s>(server: &'s Config, login: &'s LoginSettings) -> impl Iterator<Item = &'s Path> {
    let of_login = login.sources.iter().filter_map(|source| match source {
        Source::PasswordFile(file) => Some(file.as_path()),
        Source::Jwt(tokens) if tokens.is_secret => Some(tokens.keys.as_path()),
        Source::Jwt(_) | Source::Certificate(_) | Source::Http | Source::Anonymous => None,
    });
    of_login.chain(server.ssl.as_ref().map(|ssl| ssl.key_path.as_path()))
}

#[cfg(unix)]
fn is_public(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn is_public(_: &Path) -> bool {
    false
}

fn listeners(server: &Config) -> Vec<String> {
    let ssl = server.ssl.as_ref();
    let ports = [
        ("JMQT over TCP", server.socket_port),
        ("JMQT over WebSocket", server.websocket_port),
        ("MQTT over TCP", server.mqtt_port),
        ("MQTT over WebSocket", server.mqtt_websocket_port),
        ("JMQT over TLS", ssl.and_then(|ssl| ssl.socket_port)),
        ("JMQT over WebSocket with TLS", ssl.and_then(|ssl| ssl.websocket_port)),
        ("MQTT over TLS", ssl.and_then(|ssl| ssl.mqtt_port)),
        ("MQTT over WebSocket with TLS", ssl.and_then(|ssl| ssl.mqtt_websocket_port)),
    ];
    let address = server.bind_address;
    let line = |(name, port): (&str, Option<u16>)| {
        let port = port?;
        let port = if port == 0 { "a free port".to_owned() } else { format!("port {port}") };
        Some(format!("{name}: {address}, {port}"))
    };
    let mut lines: Vec<String> = ports.into_iter().filter_map(line).collect();
    if address.is_loopback() {
        lines.push("Only this machine can connect (BIND_ADDRESS)".to_owned());
    }
    lines
}

fn logins(login: &LoginSettings, http: &HttpSettings) -> Result<Vec<String>, BoxError> {
    let mut lines = Vec::new();
    for source in &login.sources {
        lines.push(match source {
            Source::Anonymous => "Who shows no credentials is logged in as an anonymous client".to_owned(),
            Source::PasswordFile(file) => {
                let users = open_passwords(file)?.len();
                format!("Users with a password: {users}, from {}", file.display())
            }
            Source::Http => {
                let backend = backend(http, http.auth_url.as_ref())?;
                format!("Users that {backend} knows")
            }
            Source::Certificate(name) => {
                let name = match name {
                    CertificateName::Alternative => "the subject alternative name",
                    _ => "the common name",
                };
                format!("Users with a certificate of their own: {name} is the user (SSL_CLIENT_CA_PATH)")
            }
            Source::Jwt(tokens) => {
                let keys = tokens.open()?.algorithms().join(", ");
                let keys =
                    if tokens.is_secret { "a secret".to_owned() } else { format!("public keys for {keys}") };
                let of = |name: &str, value: &Option<String>| {
                    value.as_ref().map_or_else(String::new, |value| format!(", {name} {value:?}"))
                };
                let (issuer, audience) = (of("issuer", &tokens.issuer), of("audience", &tokens.audience));
                format!(
                    "Users with a JSON Web Token: {keys} from {}{issuer}{audience}",
                    tokens.keys.display()
                )
            }
        });
    }
    Ok(lines)
}

fn client_ids(login: &LoginSettings) -> Vec<String> {
    let has_tokens =
        login.sources.iter().any(|source| !matches!(source, Source::PasswordFile(_) | Source::Anonymous));
    let line = match login.client_ids {
        _ if login.sources == [Source::Anonymous] => "An MQTT client may have any client id",
        ClientIds::Any if has_tokens => {
            "An MQTT client may have any client id whose part before the first colon is not in the password file and that has no session of \
                another user: users with tokens or certificates, and those of an HTTP backend, are not known before they have one (CLIENT_IDS)"
        }
        ClientIds::Any => {
            "An MQTT client may have any client id whose part before the first colon is not another user, and that has no session of \
                another user"
        }
        _ => "The client id of an MQTT client is its user name, or that with a colon and more behind it",
    };
    vec![line.to_owned()]
}

/// What a backend is called, after a check of its settings.
fn backend(http: &HttpSettings, url: Option<&String>) -> Result<String, BoxError> {
    let backend = http.open(url.map_or("", String::as_str))?;
    let secret = if http.secret.is_some() { "with a secret" } else { "without a secret (HTTP_SECRET_FILE)" };
    Ok(format!(
        "the HTTP backend {} ({secret}; refused if there is no answer within {:?})",
        backend.url(),
        http.timeout
    ))
}

fn requests(http: &HttpSettings) -> Result<Vec<String>, BoxError> {
    let Some(url) = &http.request_url else { return Ok(Vec::new()) };
    Ok(vec![format!("Requests to control channels ($name): {} answers", backend(http, Some(url))?)])
}

fn access(rules: &RuleSettings, http: &HttpSettings) -> Result<Vec<String>, BoxError> {
    let line = match (rules, rules.open()?) {
        (RuleSettings::File(file), Some(rules)) => {
            let count = rules.rules().len();
            format!("Channels: {count} rules from {}; what they do not allow is denied", file.display())
        }
        (RuleSettings::Http, _) => {
            let backend = backend(http, http.acl_url.as_ref())?;
            format!(
                "Channels: {backend} decides; a permission counts for {:?} (HTTP_ACL_CACHE_SECONDS)",
                http.acl_cache
            )
        }
        _ => "Channels: every client may read and write everything (ACL = \"none\")".to_owned(),
    };
    Ok(vec![line])
}

fn store(server: &Config) -> Vec<String> {
    let line = match &server.mysql {
        None => format!("Sessions and messages: {}", server.sqlite_path.display()),
        Some(mysql) => format!("Sessions and messages: the database {:?} on {}", mysql.database, mysql.host),
    };
    let cluster =
        if server.redis.is_some() { "This is a node of a cluster" } else { "This is a single broker" };
    vec![line, cluster.to_owned()]
}

fn operators(server: &Config) -> Result<Vec<String>, BoxError> {
    let Some(address) = server.admin_address else { return Ok(Vec::new()) };
    let mut lines = vec![format!("Operators: http://{address}/metrics, /healthz and /readyz")];
    lines.push(match &server.admin_keys_file {
        Some(file) => {
            let keys = jmqt_server::admin::count_keys(file)?;
            format!("Admin API: keys of operators: {keys}, from {}", file.display())
        }
        None if address.ip().is_loopback() => "No admin API (ADMIN_KEYS_FILE)".to_owned(),
        None => "No admin API (ADMIN_KEYS_FILE), and everybody who can connect reads the metrics".to_owned(),
    });
    Ok(lines)
}
