//! The signals an operator sends.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Caught from when this is made.
pub(crate) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Reload,
    Stop(&'static str),
}

impl Signals {
    /// # Errors
    /// The system does not let signals be caught.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// # Cancel safety
    /// A signal is not lost when this is dropped.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            biased;
            name = stop(&mut self.interrupt, &mut self.terminate) => Request::Stop(name),
            _ = self.hangup.recv() => Request::Reload,
        }
    }

    /// Only what stops; a reload waits.
    ///
    /// # Cancel safety
    /// As [`Signals::next`].
    pub(crate) async fn stop(&mut self) -> &'static str {
        stop(&mut self.interrupt, &mut self.terminate).await
    }
}

async fn stop(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
