//! Whether one backend is fit for connections, according to checks and failed connections.
//!
//! Pure: it is told what happened and when. Two things are kept apart, because a backend may take connections
//! from a check and still serve nobody: the verdict of the checks, and the ejection after failures.

use tokio::time::Instant;

use crate::config::Rules;

/// The state of one backend.
#[derive(Debug)]
pub(crate) struct Health {
    is_up: bool,
    /// Checks in a row that say the opposite of `is_up`.
    contrary: u32,
    ejected_until: Option<Instant>,
}

/// A change that an operator should know about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Up,
    Down,
}

impl Health {
    /// A backend is fit until a check or a connection fails.
    pub(crate) const fn new() -> Self {
        Self { is_up: true, contrary: 0, ejected_until: None }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.is_up
    }

    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    pub(crate) fn is_fit(&self, now: Instant) -> bool {
        self.is_up && !self.is_ejected(now)
    }

    /// Enters the result of a check.
    pub(crate) fn checked(&mut self, is_good: bool, rules: &Rules) -> Option<Change> {
        if is_good == self.is_up {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        let (needed, change) =
            if is_good { (rules.healthy_after, Change::Up) } else { (rules.unhealthy_after, Change::Down) };
        if self.contrary < needed {
            return None;
        }
        (self.is_up, self.contrary) = (is_good, 0);
        Some(change)
    }

    /// Forgets the verdict of checks that are no longer made.
    pub(crate) fn unchecked(&mut self) {
        (self.is_up, self.contrary) = (true, 0);
    }

    pub(crate) fn eject(&mut self, until: Instant) {
        self.ejected_until = Some(until);
    }

    /// Whether an ejection has just ended: true once.
    pub(crate) fn returns(&mut self, now: Instant) -> bool {
        self.ejected_until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn several_consecutive_checks_change_the_verdict() {
        let rules = Rules { healthy_after: 2, unhealthy_after: 3, ..Rules::default() };
        let mut health = Health::new();
        let mut check = |is_good| health.checked(is_good, &rules);
        assert_eq!([false, false, true].map(&mut check), [None; 3]);
        assert_eq!([false, false, false].map(&mut check), [None, None, Some(Change::Down)]);
        assert_eq!([true, false, true].map(&mut check), [None; 3]);
        assert_eq!(check(true), Some(Change::Up));
    }

    #[test]
    fn the_end_of_an_ejection_is_reported_once() {
        let (mut health, now) = (Health::new(), Instant::now());
        health.eject(now + Duration::from_secs(1));
        assert!(!health.is_fit(now) && !health.returns(now));
        let later = now + Duration::from_secs(1);
        assert!(health.is_fit(later) && health.returns(later) && !health.returns(later));
    }
}
