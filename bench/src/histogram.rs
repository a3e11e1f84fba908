//! Delivery latencies in nanoseconds, in buckets no wider than 1/32 of their value: constant memory,
//! a few instructions per delivery.

/// Buckets per power of two.
const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = ((64 - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts of values by size.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    pub(crate) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The value that `fraction` of all records do not exceed; 0 without records.
    pub(crate) fn quantile(&self, fraction: f64) -> u64 {
        let rank = (self.total as f64 * fraction).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return middle(index);
            }
        }
        0
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    (u64::from(shift + 1) * SUB + (value >> shift) - SUB) as usize
}

fn middle(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let shift = index / SUB - 1;
    ((index % SUB + SUB) << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        for value in [0, 1, 31, 32, 33, 63, 64, 1_000, 123_456_789, u64::MAX / 2] {
            let found = middle(bucket(value));
            assert!(found.abs_diff(value) <= value / 32, "{value} became {found}");
            assert!(bucket(value) <= bucket(value + value / 16 + 1));
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn the_quantiles_of_evenly_spread_values_are_those_values() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        (1..=1_000).for_each(|value| histogram.record(value * 1_000));
        assert!(histogram.quantile(0.5).abs_diff(500_000) < 16_000);
        assert!(histogram.quantile(0.99).abs_diff(990_000) < 31_000);
    }
}
