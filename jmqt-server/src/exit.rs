//! The exit codes that tell a service manager if a restart makes sense.

use std::error::Error;
use std::process::ExitCode;

use jmqt_log::LogError;

use crate::config::ConfigError;
use crate::server::StartError;
use crate::tls::TlsError;
use crate::tokens::SecretError;

/// The exit code for a server that ended with this error: 2 after a mistake in the configuration, or if the database is
/// damaged, so that a service manager does not restart it (`RestartPreventExitStatus=2` in systemd), as after wrong
/// arguments; otherwise 1.
///
/// Mistakes are: every [`ConfigError`], [`TlsError`] and [`SecretError`](crate::tokens::SecretError), a log file that
/// cannot be opened, a file of a ready validator that cannot be used, and a [`StartError`] that
/// [is one](StartError::is_mistake).
#[must_use]
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let is_mistake = error.is::<ConfigError>()
        || error.is::<TlsError>()
        || error.is::<SecretError>()
        || is_mistake_in_file(error)
        || matches!(error.downcast_ref(), Some(LogError::Open { .. }))
        || error.downcast_ref().is_some_and(StartError::is_mistake);
    if is_mistake { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(feature = "ready")]
fn is_mistake_in_file(error: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "ready-http")]
    if error.is::<crate::ready::HttpError>() {
        return true;
    }
    error.is::<crate::ready::FileError>()
}

#[cfg(not(feature = "ready"))]
fn is_mistake_in_file(_: &(dyn Error + 'static)) -> bool {
    false
}
