//! The result as Markdown for people and as JSON for programs.

use serde_json::{Value, json};

use super::contest::Outcome;
use super::target::{Against, Bound, Check, Target};
use crate::workload::Metric;

impl Metric {
    /// The value with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{}/s", thousands(value)),
            Self::Cpu => format!("{} µs CPU", short(value)),
            Self::P50 => format!("p50 {} µs", thousands(value)),
            Self::P99 => format!("p99 {} µs", thousands(value)),
            Self::Bytes => format!("{} B", thousands(value)),
            Self::Took => format!("{} ms", thousands(value)),
            Self::GeneratorPercent => format!("generator {value:.0} %"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate_per_second",
            Self::Cpu => "server_cpu_micros",
            Self::P50 => "p50_micros",
            Self::P99 => "p99_micros",
            Self::Bytes => "bytes_per_connection",
            Self::Took => "took_millis",
            Self::GeneratorPercent => "generator_percent",
        }
    }
}

/// How a target came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Miss,
    /// Lost, duplicated or reordered deliveries, or an error.
    Fail,
    /// Nothing to compare with: the peer was left out.
    Open,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Miss => "MISS",
            Self::Fail => "**FAIL**",
            Self::Open => "–",
        }
    }
}

/// The table of targets, then the table of all figures, then errors.
pub(crate) fn markdown(outcomes: &[Outcome], versions: &[String]) -> String {
    let mut text = String::from("| | ours | peers | compared | target | |\n|---|---|---|---|---|---|\n");
    for outcome in outcomes {
        for target in &outcome.row.targets {
            text.push_str(&target_line(outcome, target));
        }
    }
    text.push_str("\nAll figures (medians; CPU is the server's, per delivery or connection):\n\n");
    text.push_str("| | who | per second | CPU µs | p50 µs | p99 µs | bytes | ms | generator % |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for outcome in outcomes {
        for result in outcome.results.iter().filter(|result| !result.runs.is_empty()) {
            let cell = |metric, show: fn(f64) -> String| result.median(metric).map(show).unwrap_or_default();
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                outcome.row.title,
                result.label,
                cell(Metric::Rate, thousands),
                cell(Metric::Cpu, short),
                cell(Metric::P50, thousands),
                cell(Metric::P99, thousands),
                cell(Metric::Bytes, thousands),
                cell(Metric::Took, thousands),
                cell(Metric::GeneratorPercent, thousands),
            ));
        }
    }
    text.push_str(&format!("\nPeers: {}.\n", versions.join("; ")));
    for outcome in outcomes {
        for error in &outcome.errors {
            text.push_str(&format!("\nERROR in {}: {error}\n", outcome.row.name));
        }
    }
    text
}

/// Every run of every contestant, and the verdicts.
pub(crate) fn json(outcomes: &[Outcome], versions: &[String]) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let results = outcome.results.iter().map(|result| {
            let runs = result.runs.iter().map(|run| {
                let faults = run.faults;
                let mut figures: serde_json::Map<_, _> = run
                    .values
                    .iter()
                    .map(|&(metric, value)| (metric.name().to_owned(), json!(value)))
                    .collect();
                figures.insert("lost".into(), json!(faults.lost));
                figures.insert("duplicated".into(), json!(faults.duplicated));
                figures.insert("reordered".into(), json!(faults.reordered));
                figures.insert("stray".into(), json!(faults.stray));
                Value::Object(figures)
            });
            json!({"who": result.label, "runs": runs.collect::<Vec<_>>()})
        });
        let targets = outcome.row.targets.iter().map(|target| {
            let (check, figure, verdict) = judge(outcome, target);
            json!({
                "metric": check.metric.name(),
                "target": describe(target),
                "figure": figure,
                "verdict": verdict.text().trim_matches('*'),
            })
        });
        json!({
            "row": outcome.row.name,
            "results": results.collect::<Vec<_>>(),
            "targets": targets.collect::<Vec<_>>(),
            "errors": outcome.errors,
        })
    });
    json!({"peers": versions, "rows": rows.collect::<Vec<_>>()})
}

fn target_line(outcome: &Outcome, target: &Target) -> String {
    let (check, figure, verdict) = judge(outcome, target);
    let judged = outcome.judged();
    let show = |value: Option<f64>| value.map_or("–".to_owned(), |value| check.metric.show(value));
    let peers = outcome.results.iter().filter(|other| other.label != judged.label);
    let peers = peers.filter_map(|other| {
        let value = other.median(check.metric)?;
        Some(format!("{} {}", other.label, check.metric.show(value)))
    });
    let compared = match (check.against, figure) {
        (_, None) => "–".to_owned(),
        (Against::Nothing, Some(figure)) => check.metric.show(figure),
        (Against::Ratio(_), Some(figure)) => format!("{figure:.2} ×"),
        (Against::Difference(_), Some(figure)) => format!("{figure:+.2}"),
    };
    format!(
        "| {} | {} | {} | {compared} | {} | {} |\n",
        outcome.row.title,
        show(judged.median(check.metric)),
        peers.collect::<Vec<_>>().join(", "),
        describe(target),
        verdict.text(),
    )
}

/// The check that decides, its figure, and the verdict.
fn judge(outcome: &Outcome, target: &Target) -> (Check, Option<f64>, Verdict) {
    let judged = outcome.judged();
    let figure = |check: Check| check.figure(judged, &outcome.results);
    let mut check = target.check;
    if let Some(or) = target.or
        && !figure(check).is_some_and(|value| check.holds(value))
        && figure(or).is_some_and(|value| or.holds(value))
    {
        check = or;
    }
    // Also a peer's: what it cost to lose messages is no measure.
    let mut runs = outcome.results.iter().flat_map(|result| &result.runs);
    let has_faults = runs.any(|run| run.faults.total() > 0);
    let verdict = match figure(check) {
        _ if has_faults || judged.runs.is_empty() => Verdict::Fail,
        None => Verdict::Open,
        Some(value) if check.holds(value) => Verdict::Pass,
        Some(_) => Verdict::Miss,
    };
    (check, figure(check), verdict)
}

fn describe(target: &Target) -> String {
    let one = |check: &Check| {
        let sign = match check.bound {
            Bound::AtMost => '≤',
            Bound::AtLeast => '≥',
        };
        match check.against {
            Against::Nothing => format!("{sign} {}", check.metric.show(check.limit)),
            Against::Ratio(label) => format!("{sign} {} × {label}", check.limit),
            Against::Difference(label) => format!("{sign} {label} + {}", check.limit),
        }
    };
    match &target.or {
        None => one(&target.check),
        Some(or) => format!("{} or {}", one(&target.check), one(or)),
    }
}

/// Three significant digits for small numbers.
fn short(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => thousands(value),
    }
}

/// Rounded, with commas.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && digit.is_ascii_digit() && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_and_separated_for_readers() {
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(short(0.314), "0.31");
        assert_eq!(short(57.26), "57.3");
    }
}
