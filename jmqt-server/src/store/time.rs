//! Times as databases keep them: milliseconds since 1970.

use std::time::{Duration, SystemTime};

/// Milliseconds since 1970, before that negative.
pub(super) fn millis(time: SystemTime) -> i64 {
    let signed = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => signed(since),
        Err(before) => -signed(before.duration()),
    }
}

/// The time for a number of milliseconds since 1970; `None` if the system cannot represent it.
pub(super) fn from_millis(millis: i64) -> Option<SystemTime> {
    let span = Duration::from_millis(millis.unsigned_abs());
    match millis {
        0.. => SystemTime::UNIX_EPOCH.checked_add(span),
        _ => SystemTime::UNIX_EPOCH.checked_sub(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_milliseconds_on_either_side_of_1970() {
        for span in [0, 1, 1234].map(Duration::from_millis) {
            for time in [SystemTime::UNIX_EPOCH + span, SystemTime::UNIX_EPOCH - span] {
                assert_eq!(from_millis(millis(time)), Some(time));
            }
        }
        assert_eq!(millis(SystemTime::UNIX_EPOCH + Duration::from_millis(1234)), 1234);
        assert_eq!(millis(SystemTime::UNIX_EPOCH - Duration::from_millis(1234)), -1234);
    }
}
