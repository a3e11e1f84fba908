//! The target of a row, and whether it was met.

use crate::median::median;
use crate::workload::{Figures, Metric};

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    AtMost,
    AtLeast,
}

/// What the judged contestant's figure is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Against {
    /// Nothing: the figure itself counts.
    Nothing,
    /// This many times another contestant's.
    Ratio(&'static str),
    /// This much more than another contestant's.
    Difference(&'static str),
}

/// One comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    pub(crate) metric: Metric,
    pub(crate) against: Against,
    pub(crate) bound: Bound,
    pub(crate) limit: f64,
}

/// Reached when its check holds, or else the other one, where there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) check: Check,
    pub(crate) or: Option<Check>,
}

impl Target {
    pub(crate) fn at_most(metric: Metric, against: Against, limit: f64) -> Self {
        Self::new(metric, against, Bound::AtMost, limit)
    }

    pub(crate) fn at_least(metric: Metric, against: Against, limit: f64) -> Self {
        Self::new(metric, against, Bound::AtLeast, limit)
    }

    fn new(metric: Metric, against: Against, bound: Bound, limit: f64) -> Self {
        let check = Check { metric, against, bound, limit };
        Self { check, or: None }
    }
}

/// All runs of one contestant, in turn with those of the others.
pub(crate) struct Result {
    pub(crate) label: String,
    pub(crate) runs: Vec<Figures>,
}

impl Check {
    /// The figure to be compared with the limit: the median over the rounds, each round for itself, since
    /// what ran side by side had the same machine. `None` if the other contestant did not run.
    pub(crate) fn figure(&self, judged: &Result, all: &[Result]) -> Option<f64> {
        let ours = judged.series(self.metric);
        let (Against::Ratio(label) | Against::Difference(label)) = self.against else {
            return median(ours);
        };
        let theirs = all.iter().find(|result| result.label == label)?;
        let theirs = theirs.series(self.metric);
        let rounds = ours.into_iter().zip(theirs);
        median(match self.against {
            Against::Difference(_) => rounds.map(|(ours, theirs)| ours - theirs).collect(),
            _ => rounds.map(|(ours, theirs)| ours / theirs).collect(),
        })
    }

    pub(crate) fn holds(&self, figure: f64) -> bool {
        match self.bound {
            Bound::AtMost => figure <= self.limit,
            Bound::AtLeast => figure >= self.limit,
        }
    }
}

impl Result {
    /// This metric's values, in the order of the runs.
    pub(crate) fn series(&self, metric: Metric) -> Vec<f64> {
        self.runs.iter().filter_map(|figures| figures.value(metric)).collect()
    }

    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        median(self.series(metric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Faults;

    fn result(label: &str, values: &[f64]) -> Result {
        let runs = values
            .iter()
            .map(|&value| Figures { values: vec![(Metric::Cpu, value)], faults: Faults::default() });
        Result { label: label.to_owned(), runs: runs.collect() }
    }

    #[test]
    fn the_median_of_the_rounds_is_reported() {
        let ours = result("ours", &[1.0, 9.0, 4.0]);
        let all = [result("Redis", &[2.0, 10.0, 2.0])];
        let check = |against| Check { metric: Metric::Cpu, against, bound: Bound::AtMost, limit: 0.9 };
        let ratio = check(Against::Ratio("Redis"));
        assert_eq!(ratio.figure(&ours, &all), Some(0.9)); // of 0.5, 0.9, 2.0
        assert!(ratio.holds(0.9) && !ratio.holds(0.91));
        assert_eq!(check(Against::Difference("Redis")).figure(&ours, &all), Some(-1.0));
        assert_eq!(check(Against::Nothing).figure(&ours, &all), Some(4.0));
        assert_eq!(check(Against::Ratio("NATS")).figure(&ours, &all), None);
    }
}
