//! What `jmqt doctor` prints: a line for each step, with its time, and advice for what is wrong.

use std::time::Duration;

use jmqt_client::Step;
use serde_json::json;

use crate::terminal::printed;
use crate::{Failure, Output};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    /// It works, and something will be a problem.
    Warn,
    Fail,
}

/// Prints steps as they end.
pub(crate) struct Findings {
    output: Output,
    /// The steps that failed.
    failed: Vec<String>,
    last: Option<Step>,
}

impl Findings {
    pub(crate) fn begin(output: Output, server: &str) -> Result<Self, Failure> {
        output.line(|| format!("Connection to {server}:"), || json!({ "url": server }))?;
        Ok(Self { output, failed: Vec::new(), last: None })
    }

    /// A step has ended; `advice` may be empty.
    pub(crate) fn add(
        &mut self,
        verdict: Verdict,
        step: impl ToString,
        took: Option<Duration>,
        found: &str,
        advice: &str,
    ) -> Result<(), Failure> {
        let step = step.to_string();
        let (word, name) = match verdict {
            Verdict::Ok => ("OK", "ok"),
            Verdict::Warn => ("WARN", "warn"),
            Verdict::Fail => ("FAIL", "fail"),
        };
        self.output.line(
            || {
                let millis = took.map(|took| format!("{:.2} ms", took.as_secs_f64() * 1000.0));
                let advice = if advice.is_empty() { String::new() } else { format!("\n      -> {advice}") };
                printed(format!("{word:<5} {step:<11} {:>11}  {found}{advice}", millis.unwrap_or_default()))
            },
            || {
                let micros = took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                json!({ "step": step, "verdict": name, "micros": micros, "found": found, "advice": advice })
            },
        )?;
        if verdict == Verdict::Fail {
            self.failed.push(step);
        }
        Ok(())
    }

    /// A step to a session has been done.
    pub(crate) fn add_finding(&mut self, finding: &jmqt_client::Finding) -> Result<(), Failure> {
        self.last = Some(finding.step);
        let (verdict, advice) = match &finding.warning {
            None => (Verdict::Ok, ""),
            Some(warning) => (Verdict::Warn, warning.as_str()),
        };
        self.add(verdict, finding.step, Some(finding.took), &finding.found, advice)
    }

    /// The last step to a session that has been done.
    pub(crate) const fn last(&self) -> Option<Step> {
        self.last
    }

    /// A step failed with this error, which ends with its advice.
    pub(crate) fn add_error(&mut self, step: impl ToString, error: &str) -> Result<(), Failure> {
        let (found, advice) = error.split_once("; ").unwrap_or((error, ""));
        self.add(Verdict::Fail, step, None, found, advice)
    }

    /// The step failed that ends it all, with this error. The exit code is that of the error, which is told only once.
    pub(crate) fn end_with(mut self, step: Step, failure: Failure) -> Failure {
        match self.add_error(step, &failure.message) {
            Ok(()) => failure.reworded(format!("failed: {step}")),
            Err(unwritten) => unwritten,
        }
    }

    /// The last line. Steps that failed make the exit code 1.
    pub(crate) fn end(self) -> Result<(), Failure> {
        let is_well = self.failed.is_empty();
        if is_well {
            return self.output.line(|| "Everything works.".to_owned(), || json!({ "ok": true }));
        }
        Err(Failure::new(format!("failed: {}", self.failed.join(", "))))
    }
}

/// The step after the last one that was done, on the way to a session that begins with `opening`.
pub(crate) fn next(last: Option<Step>, (is_tls, is_websocket): (bool, bool), opening: Step) -> Step {
    match last {
        None => Step::Name,
        Some(Step::Name) => Step::Tcp,
        Some(Step::Tcp) if is_tls => Step::Tls,
        Some(Step::Tcp | Step::Tls) if is_websocket => Step::WebSocket,
        Some(Step::Tcp | Step::Tls | Step::WebSocket) => opening,
        Some(Step::Auth) => Step::Conn,
        Some(step) => step,
    }
}
