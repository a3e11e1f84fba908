//! A web backend that decides, over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use jmqt_server::ConfigError;
use jmqt_server::config::Settings as Values;
use jmqt_server::ready::{HttpBackend, HttpError};

/// How the backends of all URLs are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpSettings {
    pub(crate) auth_url: Option<String>,
    pub(crate) acl_url: Option<String>,
    pub(crate) request_url: Option<String>,
    pub(crate) secret: Option<PathBuf>,
    ca: Option<PathBuf>,
    allows_unencrypted: bool,
    pub(crate) timeout: Duration,
    connect_timeout: Duration,
    most_connections: usize,
    /// How long a permission for a channel counts; zero: the backend is asked each time.
    pub(crate) acl_cache: Duration,
}

impl HttpSettings {
    pub(crate) fn read(values: &Values, validator_timeout: Duration) -> Self {
        let url = |key| Some(values.text(key, "").trim().to_owned()).filter(|url| !url.is_empty());
        let settings = Self {
            auth_url: url("HTTP_AUTH_URL"),
            acl_url: url("HTTP_ACL_URL"),
            request_url: url("HTTP_REQUEST_URL"),
            secret: values.path("HTTP_SECRET_FILE", ""),
            ca: values.path("HTTP_CA_PATH", ""),
            allows_unencrypted: values.switch("HTTP_ALLOW_UNENCRYPTED", false),
            timeout: values.seconds("HTTP_TIMEOUT_SECONDS", 5, 1..=600),
            connect_timeout: values.seconds("HTTP_CONNECT_TIMEOUT_SECONDS", 2, 1..=600),
            most_connections: values.size("HTTP_MAX_CONNECTIONS", 64, 1..=10_000),
            acl_cache: values.seconds("HTTP_ACL_CACHE_SECONDS", 10, 0..=86_400),
        };
        if settings.timeout >= validator_timeout {
            values.note_bad(
                "HTTP_TIMEOUT_SECONDS",
                "less than VALIDATOR_TIMEOUT_SECONDS, after which no answer is waited for",
            );
        }
        settings
    }

    /// Notes that a URL is missing that another key needs.
    pub(crate) fn require(values: &Values, url: Option<&String>, problem: &'static str) {
        if url.is_none() {
            values.note(ConfigError::Incomplete { problem });
        }
    }

    /// The backend at one of the URLs. Reads the files; connects to nobody.
    pub(crate) fn open(&self, url: &str) -> Result<HttpBackend, HttpError> {
        let mut builder = HttpBackend::builder(url)
            .timeout(self.timeout)
            .connect_timeout(self.connect_timeout)
            .at_once(self.most_connections);
        if let Some(secret) = &self.secret {
            builder = builder.secret_file(secret);
        }
        if let Some(ca) = &self.ca {
            builder = builder.ca_file(ca);
        }
        if self.allows_unencrypted {
            builder = builder.allow_plain_http();
        }
        builder.build()
    }
}
