//! `jmqt doctor`: why can I not connect?

use jmqt_client::{Config, Step, diagnose};
use serde_json::json;

use crate::{Failure, Output};

pub(crate) async fn run(config: Config, output: Output) -> Result<(), Failure> {
    let endpoint = config.endpoints.first().map(ToString::to_string).unwrap_or_default();
    output.line(|| format!("Connection to {endpoint}:"), || json!({ "url": endpoint.clone() }))?;
    let mut written = Ok(());
    let mut done = None;
    let outcome = diagnose(&config, &mut |finding| {
        done = Some(finding.step);
        let micros = u64::try_from(finding.took.as_micros()).unwrap_or(u64::MAX);
        let step = finding.step.to_string();
        let line = output.line(
            || {
                let warning = finding.warning.as_ref().map(|warning| format!("\n      ! {warning}")).unwrap_or_default();
                let millis = finding.took.as_secs_f64() * 1000.0;
                format!("  ok  {step:<10} {millis:>9.2} ms  {}{warning}", finding.found)
            },
            || json!({ "step": step, "ok": true, "micros": micros, "found": finding.found, "warning": finding.warning }),
        );
        if line.is_err() {
            written = line;
        }
    })
    .await;
    written?;
    if let Err(error) = &outcome {
        let step = error.step().or(next(done, &endpoint)).map(|step| step.to_string()).unwrap_or_default();
        output.line(
            || format!("  failed  {step}"),
            || json!({ "step": step, "ok": false, "problem": error.to_string() }),
        )?;
    }
    outcome?;
    output.line(|| "Everything works.".to_owned(), || json!({ "ok": true }))
}

/// The step after the last one that was done.
fn next(done: Option<Step>, endpoint: &str) -> Option<Step> {
    let (is_websocket, is_tls) =
        (endpoint.starts_with("ws"), endpoint.starts_with("jmqts:") || endpoint.starts_with("wss:"));
    Some(match done? {
        Step::Name => Step::Tcp,
        Step::Tcp if is_tls => Step::Tls,
        Step::Tcp | Step::Tls if is_websocket => Step::WebSocket,
        Step::Tcp | Step::Tls | Step::WebSocket => Step::Auth,
        _ => Step::Conn,
    })
}
