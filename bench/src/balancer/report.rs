//! The table at the end.

use super::load::Load;
use crate::median::median;

/// One load and the figures that it is judged by.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) load: Load,
    pub(super) bound: Bound,
}

/// The target.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    /// Our figure against HAProxy's.
    RatioAtMost(f64),
    /// Our figure.
    AtMost(f64),
}

/// The figures of one round, in the order of the contestants.
pub(super) type Round = [Option<f64>; 3];

/// All rows.
pub(super) fn markdown(outcomes: &[(&Row, Vec<Round>)], haproxy: &str) -> String {
    let mut text = String::from(
        "| | jmqt-lb | HAProxy | no balancer | compared | target | |\n|---|---|---|---|---|---|---|\n",
    );
    for (row, rounds) in outcomes {
        let column =
            |index: usize| row.load.show(median(rounds.iter().filter_map(|round| round[index]).collect()));
        let (figure, compared, target) = match row.bound {
            Bound::RatioAtMost(limit) => {
                let ratio = median(rounds.iter().filter_map(|round| ratio(row.load, round)).collect());
                (
                    ratio.map(|ratio| ratio <= limit),
                    ratio.map(|ratio| format!("{ratio:.2} ×")),
                    format!("≤ {limit} × HAProxy"),
                )
            }
            Bound::AtMost(limit) => {
                let ours = median(rounds.iter().filter_map(|round| round[0]).collect());
                (
                    ours.map(|ours| ours <= limit),
                    ours.map(|ours| row.load.show(Some(ours))),
                    format!("≤ {limit} B"),
                )
            }
        };
        let verdict = match figure {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "–",
        };
        text.push_str(&format!(
            "| {}: {} | {} | {} | {} | {} | {target} | {verdict} |\n",
            row.name,
            row.title,
            column(0),
            column(1),
            column(2),
            compared.unwrap_or_default(),
        ));
    }
    text + "\n" + haproxy
}

/// Ours against HAProxy's in one round. Of latency, only what a balancer adds to that without one.
fn ratio(load: Load, round: &Round) -> Option<f64> {
    let [ours, haproxy, direct] = *round;
    let base = if matches!(load, Load::Latency { .. }) { direct? } else { 0.0 };
    Some((ours? - base) / (haproxy? - base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_compared_without_the_latency_of_a_direct_connection() {
        let round = [Some(30.0), Some(40.0), Some(20.0)];
        assert_eq!(ratio(Load::Latency { connections: 1 }, &round), Some(0.5));
        assert_eq!(ratio(Load::Bulk { connections: 1 }, &round), Some(0.75));
        assert_eq!(ratio(Load::Bulk { connections: 1 }, &[Some(1.0), None, None]), None);
    }

    #[test]
    fn the_median_of_the_rounds_is_judged() {
        let row = Row {
            name: "bulk",
            title: "t",
            load: Load::Bulk { connections: 1 },
            bound: Bound::RatioAtMost(0.7),
        };
        let rounds =
            vec![[Some(1.0), Some(2.0), None], [Some(9.0), Some(10.0), None], [Some(1.0), Some(4.0), None]];
        let text = markdown(&[(&row, rounds)], "HAProxy version 1");
        assert!(text.contains("| 0.50 × | ≤ 0.7 × HAProxy | PASS |"), "{text}");
    }
}
