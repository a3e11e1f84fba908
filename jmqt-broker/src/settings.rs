//! The keys of the broker, which are in the same file and environment as those of the server.

use std::path::{Path, PathBuf};

use jmqt_server::config::Settings as Values;
use jmqt_server::ready::{
    Anonymous, CertificateLogin, CertificateName, ClientIds, FileError, JwtLogin, Login, PasswordFile,
    RulesFile,
};
use jmqt_server::tokens::TokenIssuer;
use jmqt_server::{BoxError, Config, ConfigError};

use crate::backend::HttpSettings;

use crate::files::Files;

/// The keys, in the order of `jmqtd.conf`.
pub(crate) const KEYS: [&str; 20] = [
    "AUTH",
    "PASSWORD_FILE",
    "CERTIFICATE_NAME",
    "JWT_KEY_FILE",
    "JWT_SECRET_FILE",
    "JWT_ISSUER",
    "JWT_AUDIENCE",
    "CLIENT_IDS",
    "ACL",
    "ACL_FILE",
    "HTTP_AUTH_URL",
    "HTTP_ACL_URL",
    "HTTP_REQUEST_URL",
    "HTTP_SECRET_FILE",
    "HTTP_CA_PATH",
    "HTTP_ALLOW_UNENCRYPTED",
    "HTTP_TIMEOUT_SECONDS",
    "HTTP_CONNECT_TIMEOUT_SECONDS",
    "HTTP_MAX_CONNECTIONS",
    "HTTP_ACL_CACHE_SECONDS",
];

/// A checked configuration, whose files have not been opened.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) server: Config,
    pub(crate) login: LoginSettings,
    pub(crate) rules: RuleSettings,
    pub(crate) http: HttpSettings,
    /// The keys that have values, each with a number that another value does not have.
    pub(crate) given: Vec<(&'static str, u64)>,
}

/// Who may log in.
#[derive(Debug)]
pub(crate) struct LoginSettings {
    pub(crate) sources: Vec<Source>,
    pub(crate) client_ids: ClientIds,
}

/// Something that knows users, in the order in which it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Anonymous,
    PasswordFile(PathBuf),
    Certificate(CertificateName),
    Jwt(JwtSettings),
    /// The backend at HTTP_AUTH_URL.
    Http,
}

/// Which tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JwtSettings {
    pub(crate) keys: PathBuf,
    /// The file has a secret, and not public keys.
    pub(crate) is_secret: bool,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
}

/// Who may read and write what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RuleSettings {
    /// Everybody who has logged in, everything.
    AllowAll,
    File(PathBuf),
    /// The backend at HTTP_ACL_URL.
    Http,
}

/// A word of AUTH.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Anonymous,
    PasswordFile,
    Certificate,
    Jwt,
    Http,
}

impl std::str::FromStr for Word {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "anonymous" => Ok(Self::Anonymous),
            "password_file" => Ok(Self::PasswordFile),
            "certificate" => Ok(Self::Certificate),
            "jwt" => Ok(Self::Jwt),
            "http" => Ok(Self::Http),
            _ => Err(()),
        }
    }
}

impl Settings {
    /// Reads the file, and the environment over it.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let (server, values) = Config::load_with_keys(Some(file), &KEYS)?;
        let http = HttpSettings::read(&values, server.validator_timeout);
        let (login, rules) = (login(&values, &server, &http), rules(&values, &http));
        let given = values.fingerprints();
        let unknown_variables = values.finish()?;
        let mut server = server;
        server.unknown_variables = unknown_variables;
        Ok(Self { server, login, rules, http, given })
    }
}

fn login(values: &Values, server: &Config, http: &HttpSettings) -> LoginSettings {
    const EXPECTED: &str = "\"password_file\", \"certificate\", \"jwt\", \"http\" or \"anonymous\", or several of them in the order in which they \
        are asked, such as \"password_file, anonymous\"";
    let mut words: Vec<Word> = values.list("AUTH", EXPECTED);
    if values.is_empty("AUTH") {
        let problem = "AUTH is missing: nobody could log in; expected \"password_file\", \"certificate\", \"jwt\", \"http\" or \"anonymous\", or \
            several of them";
        values.note(ConfigError::Incomplete { problem });
    }
    let named = words.len();
    words.dedup();
    if words.len() < named {
        values.note_bad("AUTH", format!("{EXPECTED}, each once"));
    }
    // Asked for in any case, so that every mistake is named.
    let path = |key, default: &str| values.path(key, default);
    let text = |key| Some(values.text(key, "").trim().to_owned()).filter(|text| !text.is_empty());
    let passwords = path("PASSWORD_FILE", "");
    let keys = match (path("JWT_KEY_FILE", ""), path("JWT_SECRET_FILE", "")) {
        (Some(_), Some(_)) => {
            let problem = "JWT_KEY_FILE and JWT_SECRET_FILE are both set: tokens are verified with public keys or with a secret";
            values.note(ConfigError::Incomplete { problem });
            None
        }
        (Some(keys), None) => Some((keys, false)),
        (None, Some(secret)) => Some((secret, true)),
        (None, None) => {
            if words.contains(&Word::Jwt) {
                let problem = "JWT_KEY_FILE or JWT_SECRET_FILE is missing: AUTH names jwt";
                values.note(ConfigError::Incomplete { problem });
            }
            None
        }
    };
    let names = [("CN", CertificateName::Common), ("SAN", CertificateName::Alternative)];
    let certificate_name = values.choice("CERTIFICATE_NAME", CertificateName::Common, &names);
    let asks_for_certificates =
        server.ssl.as_ref().is_some_and(|ssl| ssl.client_certificates.ca_path().is_some());
    if words.contains(&Word::Certificate) && !asks_for_certificates {
        let problem = "AUTH names certificate: it requires ENABLE_SSL = true, SSL_CLIENT_CERT = \"OPTIONAL\" or \"REQUIRED\", and SSL_CLIENT_CA_PATH";
        values.note(ConfigError::Incomplete { problem });
    }
    let (issuer, audience) = (text("JWT_ISSUER"), text("JWT_AUDIENCE"));
    let mut sources = Vec::new();
    for word in words {
        match (word, &passwords, &keys) {
            (Word::Anonymous, ..) => sources.push(Source::Anonymous),
            (Word::Certificate, ..) => sources.push(Source::Certificate(certificate_name)),
            (Word::PasswordFile, Some(file), _) => sources.push(Source::PasswordFile(file.clone())),
            (Word::Jwt, _, Some((keys, is_secret))) => sources.push(Source::Jwt(JwtSettings {
                keys: keys.clone(),
                is_secret: *is_secret,
                issuer: issuer.clone(),
                audience: audience.clone(),
            })),
            (Word::PasswordFile, None, _) => {
                let problem = "PASSWORD_FILE is missing: AUTH names password_file";
                values.note(ConfigError::Incomplete { problem });
            }
            (Word::Jwt, _, None) => {} // noted above
            (Word::Http, ..) => {
                let problem = "HTTP_AUTH_URL is missing: AUTH names http";
                HttpSettings::require(values, http.auth_url.as_ref(), problem);
                sources.push(Source::Http);
            }
        }
    }
    let choices = [("OWN", ClientIds::Own), ("ANY", ClientIds::Any)];
    LoginSettings { sources, client_ids: values.choice("CLIENT_IDS", ClientIds::Own, &choices) }
}

fn rules(values: &Values, http: &HttpSettings) -> RuleSettings {
    #[derive(Clone, Copy)]
    enum Acl {
        File,
        Http,
        AllowAll,
    }
    let choices = [("file", Acl::File), ("http", Acl::Http), ("none", Acl::AllowAll)];
    match (values.choice("ACL", Acl::File, &choices), values.path("ACL_FILE", "")) {
        (Acl::AllowAll, _) => RuleSettings::AllowAll,
        (Acl::Http, _) => {
            let problem = "HTTP_ACL_URL is missing: ACL is http";
            HttpSettings::require(values, http.acl_url.as_ref(), problem);
            RuleSettings::Http
        }
        (Acl::File, Some(file)) => RuleSettings::File(file),
        (Acl::File, None) => {
            let problem = "ACL_FILE is missing: the path of the file with the rules (or set ACL = \"none\": every client may read and write \
                everything)";
            values.note(ConfigError::Incomplete { problem });
            RuleSettings::AllowAll
        }
    }
}

impl LoginSettings {
    /// Opens the files.
    pub(crate) fn open(
        &self,
        http: &HttpSettings,
        tokens: TokenIssuer,
        files: &mut Files,
    ) -> Result<Login, BoxError> {
        let mut login = Login::new(tokens).client_ids(self.client_ids);
        for source in &self.sources {
            login = match source {
                Source::Anonymous => login.ask(Anonymous),
                Source::Certificate(name) => login.ask(CertificateLogin::new(*name)),
                Source::PasswordFile(file) => {
                    let users = open_passwords(file)?;
                    files.add_passwords(file, &users);
                    login.ask(users)
                }
                Source::Jwt(tokens) => {
                    let users = tokens.open()?;
                    files.add_keys(&tokens.keys, &users);
                    login.ask(users)
                }
                Source::Http => login.ask(http.open(http.auth_url.as_deref().unwrap_or_default())?),
            };
        }
        Ok(login)
    }
}

/// Opens the file of PASSWORD_FILE.
pub(crate) fn open_passwords(file: &Path) -> Result<PasswordFile, FileError> {
    PasswordFile::open(file).map_err(|error| error.of_key("PASSWORD_FILE"))
}

impl JwtSettings {
    /// Opens the file with the keys.
    pub(crate) fn open(&self) -> Result<JwtLogin, FileError> {
        let opened = match self.is_secret {
            true => JwtLogin::open_secret(&self.keys).map_err(|error| error.of_key("JWT_SECRET_FILE")),
            false => JwtLogin::open(&self.keys).map_err(|error| error.of_key("JWT_KEY_FILE")),
        };
        let mut login = opened?;
        if let Some(issuer) = &self.issuer {
            login = login.issuer(issuer);
        }
        if let Some(audience) = &self.audience {
            login = login.audience(audience);
        }
        Ok(login)
    }
}

impl RuleSettings {
    /// Opens the file; `None`: there is none.
    pub(crate) fn open(&self) -> Result<Option<RulesFile>, FileError> {
        match self {
            Self::AllowAll | Self::Http => Ok(None),
            Self::File(file) => RulesFile::open(file).map(Some).map_err(|error| error.of_key("ACL_FILE")),
        }
    }
}
