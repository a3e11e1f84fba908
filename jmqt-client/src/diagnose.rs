//! Why can I not connect? The steps to a session, one by one, with their times.

use std::time::{Duration, SystemTime};

use crate::certificate;
use crate::connect;
use crate::way::Found;
use crate::{Config, ConnectError, Step};

/// A step that was done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finding {
    /// Which one.
    pub step: Step,
    /// How long it took.
    pub took: Duration,
    /// What was found, in words.
    pub found: String,
    /// What will be a problem some day, if anything.
    pub warning: Option<String>,
}

/// Goes every step to a session, with this configuration, and leaves again. `report` hears of each that is done.
///
/// # Errors
/// [`ConnectError`] says which step failed, and the hint.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn diagnose(config: &Config, report: &mut (dyn FnMut(Finding) + Send)) -> Result<(), ConnectError> {
    let mut token = config.token.clone();
    let mut in_words = |step, took, found: Found| {
        let (found, warning) = words(&found);
        report(Finding { step, took, found, warning });
    };
    config.check()?;
    let target = connect::Target { endpoint: &config.endpoints[0], publisher: None };
    let mut session = connect::open(config, target, &mut token, &mut in_words).await?;
    session.leave().await;
    Ok(())
}

pub(crate) fn words(found: &Found) -> (String, Option<String>) {
    match found {
        Found::Addresses(addresses) => {
            let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
            (shown.join(", "), None)
        }
        Found::Address(address) => (format!("connected to {address}"), None),
        Found::Tls(info) => {
            let described: Vec<_> = info.chain.iter().map(|der| certificate::describe(der)).collect();
            let warning = info.chain.iter().find_map(|der| certificate::warning(der, SystemTime::now()));
            (format!("{}; {}", info.version, described.join("; signed by: ")), warning)
        }
        Found::WebSocket => ("the WebSocket is open".to_owned(), None),
        Found::Session(words) => (words.clone(), None),
        Found::Client(client) => (format!("authenticated as {client}"), None),
        Found::Timeout(timeout) => (format!("the session is open; its timeout is {timeout:?}"), None),
    }
}
