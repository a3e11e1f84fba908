//! How the command ends when it does not end well.

use std::process::ExitCode;

use jmqt_client::{ConfigError, ConnectError, Error};

/// What is said on standard error, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    code: u8,
}

impl Failure {
    /// 1: it failed.
    pub(crate) fn new(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// 2: it was called wrongly.
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 2 }
    }

    /// 5: the time is over.
    pub(crate) fn timeout() -> Self {
        Self { message: "the time is over".to_owned(), code: 5 }
    }

    /// 5: the time is over for this.
    pub(crate) fn timeout_of(what: &str) -> Self {
        Self { message: format!("{what}: the time is over"), code: 5 }
    }

    /// 4: the server refused.
    pub(crate) fn refused(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 4 }
    }

    /// 3: the connection is gone.
    pub(crate) fn disconnected(message: impl ToString) -> Self {
        Self { message: message.to_string(), code: 3 }
    }

    /// Says what failed.
    pub(crate) fn of(self, what: impl std::fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The code as a number.
    pub(crate) const fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Refused { .. } => 4,
            Error::ConnectionLost | Error::Closed | Error::Timeout { .. } => 3,
            Error::WrongChannel { .. } | Error::InvalidChannel(_) => 2,
            _ => 1,
        };
        Self { message: error.to_string(), code }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match error {
            ConnectError::Refused { .. } => 4,
            ConnectError::File { .. } => 2,
            _ => 3,
        };
        let advice = match &error {
            ConnectError::Tcp { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused => {
                "; nothing listens there. Is the server running, and is this its port? Usual ports: jmqt:// 8010, \
                 jmqts:// 8011, ws:// 8012, wss:// 8013"
            }
            _ => "",
        };
        Self { message: format!("{error}{advice}"), code }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<std::io::Error> for Failure {
    /// Whoever reads the output may have had enough: that is no failure.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { message: String::new(), code: 0 };
        }
        Self::new(error)
    }
}
