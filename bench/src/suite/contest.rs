//! Runs a row: its contestants in turn, round by round, each on a fresh server.

use crate::plan::{Pace, Plan};
use crate::server::Places;
use crate::suite::row::{Contestant, Row};
use crate::suite::target::Result;
use crate::workload::{Figures, Metric, Times, Workload};

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) times: Times,
}

/// A row with all its runs.
pub(crate) struct Outcome {
    pub(crate) row: Row,
    /// One per contestant, in the row's order.
    pub(crate) results: Vec<Result>,
    /// What went wrong, with whom. A contestant that fails once is left out from then on.
    pub(crate) errors: Vec<String>,
}

impl Outcome {
    /// The contestant whose figures are judged.
    pub(crate) fn judged(&self) -> &Result {
        &self.results[self.row.judged]
    }
}

/// Runs all rounds of a row, and tells on stderr how it goes.
pub(crate) fn hold(row: Row, places: &Places, effort: Effort) -> Outcome {
    let mut errors = Vec::new();
    let mut out = vec![false; row.contestants.len()];
    let mut results: Vec<_> = row
        .contestants
        .iter()
        .map(|contestant| Result { label: contestant.label.clone(), runs: Vec::new() })
        .collect();
    for round in 1..=effort.rounds {
        for (index, contestant) in row.contestants.iter().enumerate() {
            if out[index] {
                continue;
            }
            eprint!("{} {round}/{}: {:<10} ", row.name, effort.rounds, contestant.label);
            let workload = settle_pace(contestant.workload, &row.contestants, &results);
            let server = (contestant.kind, contestant.listener);
            match workload.run(places, server, effort.times) {
                Ok(figures) => {
                    eprintln!("{}", describe(&figures));
                    if figures.faults.total() > 0 {
                        errors.push(fault(contestant, &figures));
                    }
                    results[index].runs.push(figures);
                }
                Err(error) => {
                    eprintln!("ERROR: {error:#}");
                    errors.push(format!("{}: {error:#}", contestant.label));
                    out[index] = true;
                }
            }
        }
    }
    Outcome { row, results, errors }
}

/// Turns "half of what that one has just reached" into a number of messages per second.
fn settle_pace(workload: Workload, contestants: &[Contestant], results: &[Result]) -> Workload {
    let Workload::Traffic(Plan { pace: Pace::PartOf { contestant, part }, .. }) = workload else {
        return workload;
    };
    let Workload::Traffic(plan) = workload else {
        return workload;
    };
    let Workload::Traffic(other) = contestants[contestant].workload else {
        return workload;
    };
    let Some(&rate) = results[contestant].series(Metric::Rate).last() else {
        return workload; // its run will say that the pace is open
    };
    let pace = Pace::PerSecond(rate / f64::from(other.shape.copies()) * part);
    Workload::Traffic(Plan { pace, ..plan })
}

fn fault(contestant: &Contestant, figures: &Figures) -> String {
    let faults = figures.faults;
    format!(
        "{}: {} lost, {} duplicated, {} reordered, {} stray",
        contestant.label, faults.lost, faults.duplicated, faults.reordered, faults.stray
    )
}

fn describe(figures: &Figures) -> String {
    let values = figures.values.iter().map(|&(metric, value)| metric.show(value));
    let mut text = values.collect::<Vec<_>>().join(", ");
    if figures.faults.total() > 0 {
        text.push_str(&format!(", FAULTS {:?}", figures.faults));
    }
    text
}
