//! How the command ends when it does not end well.

use std::process::ExitCode;

use jmqt_client::{ChannelName, Client, ConfigError, ConnectError, Error, StatusCode};
use serde_json::{Map, Value};

/// What is said on standard error, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    code: u8,
    /// What the server refused.
    refusal: Option<(StatusCode, String)>,
}

impl Failure {
    /// 1: it failed.
    pub(crate) fn new(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 1, refusal: None }
    }

    /// 2: it was called wrongly.
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 2, refusal: None }
    }

    /// 5: the time limit has passed.
    pub(crate) fn timeout() -> Self {
        Self { message: "the time limit has passed (--timeout)".to_owned(), code: 5, refusal: None }
    }

    /// 5: the time limit has passed for this.
    pub(crate) fn timeout_of(what: &str) -> Self {
        Self { message: format!("{what}: the time limit has passed"), code: 5, refusal: None }
    }

    /// 4: the server refused.
    pub(crate) fn refused(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 4, refusal: None }
    }

    /// 3: the connection is gone.
    pub(crate) fn disconnected(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 3, refusal: None }
    }

    /// A request failed, such as `sub`, about this channel; `hint`: what may help if the server refused it.
    pub(crate) fn of_request(request: &str, channel: &ChannelName, hint: &str, error: Error) -> Self {
        let Error::Refused { status, .. } = error else { return error.into() };
        let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
        Self {
            message: format!("{request} {channel}: refused, {status}{hint}"),
            code: 4,
            refusal: Some((status, channel.to_string())),
        }
    }

    /// 4: the server refused a subscription to this channel or filter.
    pub(crate) fn of_subscription(message: String, channel: impl ToString, status: StatusCode) -> Self {
        Self { message, code: 4, refusal: Some((status, channel.to_string())) }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("error".to_owned(), self.message.as_str().into());
        fields.insert("exit_code".to_owned(), self.code.into());
        if let Some((status, channel)) = &self.refusal {
            fields.insert("status".to_owned(), status.code().into());
            fields.insert("channel".to_owned(), channel.as_str().into());
        }
        fields.into()
    }

    /// 3: the client has ended, and with it what it received.
    pub(crate) fn ended(client: &Client) -> Self {
        client.ended().unwrap_or(Error::Closed).into()
    }

    /// There is no session; `ports`: the usual ones of such servers.
    pub(crate) fn unreachable(error: ConnectError, ports: &str) -> Self {
        let code = match error {
            ConnectError::Refused { .. } => 4,
            ConnectError::File { .. } => 2,
            _ => 3,
        };
        let mut message = error.to_string();
        if let ConnectError::Tcp { source, .. } = &error
            && source.kind() == std::io::ErrorKind::ConnectionRefused
        {
            message.push_str(
                "; nothing listens there. Is the server running, and is this its port? Usual ports: ",
            );
            message.push_str(ports);
        }
        Self { message, code, refusal: None }
    }

    /// Says what failed.
    pub(crate) fn of(self, what: impl std::fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The same end, in these words.
    pub(crate) fn reworded(self, message: String) -> Self {
        Self { message, ..self }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// What a status means for a `sub`, an `unsub` or a request.
pub(crate) fn meaning(request: &str, error: &Error) -> &'static str {
    match (request, error.status()) {
        ("sub" | "unsub" | "request", StatusCode::NOT_ALLOWED) => "the application does not allow it",
        ("request", StatusCode::INVALID_CHANNEL) => "the application answers no such control channel",
        _ => "",
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Refused { .. } | Error::FiltersNotSupported => 4,
            Error::ConnectionLost | Error::Disconnected(_) | Error::Closed | Error::Timeout { .. } => 3,
            Error::WrongChannel { .. } | Error::InvalidChannel(_) | Error::InvalidFilter(_) => 2,
            _ => 1,
        };
        Self { message: error.to_string(), code, refusal: None }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::unreachable(error, "jmqt:// 8010, jmqts:// 8011, ws:// 8012, wss:// 8013")
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<std::io::Error> for Failure {
    /// The reader of the output may have closed it: that is not a failure.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { message: String::new(), code: 0, refusal: None };
        }
        Self::new(error)
    }
}
