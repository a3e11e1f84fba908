//! Tests that try random inputs for a while.

use std::time::{Duration, Instant};

use crate::Random;

/// How long to try, and from which seed on.
///
/// The environment variables JMQT_FUZZ_SECONDS and JMQT_FUZZ_SEED change both. Every round has a seed of its own, one more than
/// that of the round before. A round that fails prints its seed, which repeats it as the first round.
#[derive(Debug, Clone, Copy)]
pub struct Fuzzing {
    time: Duration,
    seed: u64,
}

impl Fuzzing {
    /// This long without a variable, so that it can be a part of every test run.
    #[must_use]
    pub fn of_seconds(seconds: u64) -> Self {
        let variable = |name: &str| {
            let value = std::env::var(name).ok()?;
            Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
        };
        Self {
            time: Duration::from_secs(variable("JMQT_FUZZ_SECONDS").unwrap_or(seconds)),
            seed: variable("JMQT_FUZZ_SEED").unwrap_or(1),
        }
    }

    /// The rounds: their seeds, until the time is over; at least one.
    pub fn rounds(self, name: &str) -> impl Iterator<Item = Round> {
        let (start, name) = (Instant::now(), name.to_owned());
        (self.seed..).enumerate().map_while(move |(number, seed)| {
            if number > 0 && start.elapsed() >= self.time {
                eprintln!("{name}: {number} rounds in {:?}, from seed {} on", start.elapsed(), self.seed);
                return None;
            }
            Some(Round { seed, name: name.clone() })
        })
    }
}

/// One round. If it panics, its seed is printed.
#[derive(Debug)]
pub struct Round {
    /// What everything random in it is made of.
    pub seed: u64,
    name: String,
}

impl Round {
    /// The random numbers of this round.
    #[must_use]
    pub const fn random(&self) -> Random {
        Random::new(self.seed)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("JMQT_FUZZ_SEED={} repeats the failed round of {}", self.seed, self.name);
        }
    }
}
