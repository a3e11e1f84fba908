//! `jmqt doctor` with a JMQT server: every step to a session.

use jmqt_client::{Config, Step, diagnose};

use crate::findings::{Findings, next};
use crate::{Failure, Output};

pub(crate) async fn run(config: Config, output: Output) -> Result<(), Failure> {
    let endpoint = config.endpoints.first();
    let mut findings = Findings::begin(output, &endpoint.map(ToString::to_string).unwrap_or_default())?;
    let protocol = endpoint.map(|endpoint| (endpoint.protocol.is_tls(), endpoint.protocol.is_websocket()));
    let mut written = Ok(());
    let outcome = diagnose(&config, &mut |finding| {
        if written.is_ok() {
            written = findings.add_finding(&finding);
        }
    })
    .await;
    written?;
    if let Err(error) = outcome {
        let step =
            error.step().unwrap_or_else(|| next(findings.last(), protocol.unwrap_or_default(), Step::Auth));
        return Err(findings.end_with(step, Failure::from(error)));
    }
    findings.end()
}
