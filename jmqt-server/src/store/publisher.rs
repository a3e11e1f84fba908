//! Records the accepted publishes of a publisher, so that none is stored twice (protocol.md 2.23).
//!
//! The ids of one publisher increase, so the accepted ids form one run, or a few: the ids between runs were
//! refused. A [`Seen`] is a row of the table `publishers`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jmqt_core::ClientId;

use super::StoreError;
use super::time::millis;

/// The largest size of a publisher id in bytes.
const MAX_PUBLISHER_BYTES: usize = 64;
/// The number of recorded publishes of one publisher: the latest.
const REMEMBERED: u64 = 10_000;
/// The most runs of one publisher, so that a publisher that leaves gaps does not cause large rows for small messages.
const MOST_RUNS: usize = 1024;
/// The number of recorded publishers of one client: those that published last.
const PUBLISHERS_PER_CLIENT: usize = 8;
/// How long a publisher is recorded after its last publish.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of rows that one step of the search for expired publishers reads.
pub(super) const LOOKED_AT: usize = 512;

/// The id of a publisher of a client: 1 to 64 bytes (`pi`). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublisherId(Arc<str>);

impl PublisherId {
    /// Checks `raw`; `None` if it is empty or longer than 64 bytes.
    pub fn parse(raw: &str) -> Option<Self> {
        (1..=MAX_PUBLISHER_BYTES).contains(&raw.len()).then(|| Self(raw.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Identifies a publish of a client, also when it is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishId {
    /// The publisher of the client.
    pub publisher: PublisherId,
    /// The packet's `id`, 1 to 2^63 - 1.
    pub number: u64,
    /// The publish is answered with status 8 (the receiver is not connected), also when it is sent again.
    pub receiver_is_away: bool,
}

/// Parses the `id` of a publish for publishing once: a decimal integer from 1 to 2^63 - 1, without a sign or leading
/// zeros.
pub(crate) fn parse_number(id: &str) -> Option<u64> {
    let is_decimal = !id.starts_with('0') && id.bytes().all(|byte| byte.is_ascii_digit());
    id.parse::<i64>().ok().filter(|_| is_decimal).map(i64::cast_unsigned)
}

/// Consecutive publishes with the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    receiver_is_away: bool,
}

impl Run {
    fn count(self) -> u64 {
        self.last - self.first + 1
    }

    /// Returns `true` if `other` begins directly after the end of this run.
    fn is_continued_by(self, other: Self) -> bool {
        self.last + 1 == other.first && self.receiver_is_away == other.receiver_is_away
    }
}

/// The accepted publishes of one publisher: the latest 10,000.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// In ascending order, with gaps between them.
    runs: Vec<Run>,
    count: u64,
}

impl Seen {
    /// `Some` if a publish was accepted: `true` if its receiver was absent.
    pub(super) fn find(&self, number: u64) -> Option<bool> {
        let run = self.runs.get(self.place_of(number))?;
        (run.first <= number).then_some(run.receiver_is_away)
    }

    /// The first run that does not end before `number`.
    fn place_of(&self, number: u64) -> usize {
        match self.runs.last() {
            Some(last) if last.last < number => self.runs.len(),
            _ => self.runs.partition_point(|run| run.last < number),
        }
    }

    /// Adds a publish that is not recorded yet. If a limit is exceeded, removes the lowest ids.
    pub(super) fn insert(&mut self, number: u64, receiver_is_away: bool) {
        let mut place = self.place_of(number);
        self.runs.insert(place, Run { first: number, last: number, receiver_is_away });
        self.count += 1;
        if place > 0 && self.runs[place - 1].is_continued_by(self.runs[place]) {
            self.runs[place - 1].last = number;
            self.runs.remove(place);
            place -= 1;
        }
        if let Some(&next) = self.runs.get(place + 1)
            && self.runs[place].is_continued_by(next)
        {
            self.runs[place].last = next.last;
            self.runs.remove(place + 1);
        }
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        while self.count > REMEMBERED || self.runs.len() > MOST_RUNS {
            let lowest = self.runs[0];
            let too_many = self.count.saturating_sub(REMEMBERED);
            if self.runs.len() <= MOST_RUNS && too_many < lowest.count() {
                self.runs[0].first += too_many;
                self.count -= too_many;
            } else {
                self.count -= lowest.count();
                self.runs.remove(0);
            }
        }
    }

    /// The number of runs, which determines its size.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Encodes it for its row: for each run the distance from the previous run, its length, and its answer, as
    /// numbers with 7 bits per byte, low bits first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + 2 * self.runs.len());
        let mut before = 0;
        for run in &self.runs {
            put(&mut bytes, run.first - before);
            put(&mut bytes, (run.last - run.first) << 1 | u64::from(run.receiver_is_away));
            before = run.last;
        }
        bytes
    }

    /// Decodes it from its row.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, StoreError> {
        let invalid = StoreError::Corrupt { what: "publisher" };
        let mut seen = Self::default();
        let mut before = 0u64;
        while !bytes.is_empty() {
            let run = (|| {
                let distance = take(&mut bytes).filter(|&distance| distance > 0)?;
                let length = take(&mut bytes)?;
                let first = before.checked_add(distance)?;
                let last = first.checked_add(length >> 1)?;
                Some(Run { first, last, receiver_is_away: length & 1 == 1 })
            })();
            let Some(run) = run.filter(|run| run.count() <= REMEMBERED) else { return Err(invalid) };
            before = run.last;
            seen.count += run.count();
            seen.runs.push(run);
        }
        match seen.count > REMEMBERED || seen.runs.len() > MOST_RUNS {
            true => Err(invalid),
            false => Ok(seen),
        }
    }
}

/// The row of a publisher, without its recorded publishes.
#[derive(Debug)]
pub(super) struct PublisherRow {
    pub(super) client: ClientId,
    pub(super) id: PublisherId,
    /// Milliseconds since 1970.
    pub(super) used_at: i64,
}

/// The publishers beyond the limit of their clients: those that published least recently, except those of `is_here`.
pub(super) fn too_many(
    rows: Vec<PublisherRow>,
    is_here: impl Fn(&ClientId, &PublisherId) -> bool,
) -> Vec<(ClientId, PublisherId)> {
    let mut by_client: BTreeMap<ClientId, Vec<(i64, PublisherId)>> = BTreeMap::new();
    for PublisherRow { client, id, used_at } in rows {
        by_client.entry(client).or_default().push((used_at, id));
    }
    let mut gone = Vec::new();
    for (client, mut publishers) in by_client {
        publishers.sort_unstable();
        publishers.dedup();
        let too_many = publishers.len().saturating_sub(PUBLISHERS_PER_CLIENT);
        let oldest = publishers.into_iter().map(|(_, id)| id).filter(|id| !is_here(&client, id));
        gone.extend(oldest.take(too_many).map(|id| (client.clone(), id)));
    }
    gone
}

/// The range of last-publish times of recorded publishers, in milliseconds since 1970. Publishers outside of it are
/// deleted, including those for which a wrong clock has recorded a time in the future.
pub(super) fn remembered(now: SystemTime) -> std::ops::RangeInclusive<i64> {
    let long = i64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(i64::MAX);
    millis(now).saturating_sub(long)..=millis(now).saturating_add(long)
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: impl IntoIterator<Item = u64>) -> Seen {
        let mut seen = Seen::default();
        for number in numbers {
            seen.insert(number, false);
        }
        seen
    }

    #[test]
    fn an_id_is_a_decimal_integer_from_1_to_2_to_the_63() {
        assert_eq!(parse_number("1"), Some(1));
        assert_eq!(parse_number("9223372036854775807"), Some(i64::MAX as u64));
        for id in ["", "0", "01", "+1", "-1", " 1", "1.0", "1e3", "a", "9223372036854775808", "١"] {
            assert_eq!(parse_number(id), None, "{id:?}");
        }
    }

    #[test]
    fn a_publishers_id_has_1_to_64_bytes() {
        assert!(PublisherId::parse("").is_none());
        assert!(PublisherId::parse(&"p".repeat(64)).is_some());
        assert!(PublisherId::parse(&"p".repeat(65)).is_none());
    }

    #[test]
    fn ascending_ids_are_one_run_in_a_small_row() {
        let seen = seen(1_000_000..1_005_000);
        assert_eq!(seen.runs(), 1);
        assert!(seen.to_bytes().len() <= 6);
    }

    #[test]
    fn ids_with_gaps_in_any_order_and_both_answers_are_found() {
        let mut model = BTreeMap::new();
        let mut seen = Seen::default();
        let mut dice = 1u64;
        for _ in 0..2000 {
            dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (number, away) = ((dice >> 33) % 900 + 1, (dice >> 60) == 0);
            assert_eq!(seen.find(number), model.get(&number).copied(), "{number}");
            if model.insert(number, away).is_none() {
                seen.insert(number, away);
            } else {
                model.insert(number, seen.find(number).unwrap());
            }
        }
        let again = Seen::parse(&seen.to_bytes()).unwrap();
        assert_eq!(again, seen);
        for number in 0..=901 {
            assert_eq!(again.find(number), model.get(&number).copied(), "{number}");
        }
    }

    #[test]
    fn the_latest_ten_thousand_ids_of_a_publisher_are_remembered() {
        let mut seen = seen((1..=4000).chain(5001..=11_000));
        assert_eq!((seen.find(1), seen.count), (Some(false), REMEMBERED));
        seen.insert(11_001, true);
        assert_eq!((seen.find(1), seen.find(2), seen.find(11_001)), (None, Some(false), Some(true)));
        seen.insert(1, false); // the lowest id, removed at once
        assert_eq!((seen.find(1), seen.find(2), seen.count), (None, Some(false), REMEMBERED));
        for number in 11_002..=21_000 {
            seen.insert(number, false);
        }
        assert_eq!((seen.find(11_000), seen.find(11_001), seen.count), (None, Some(true), REMEMBERED));
    }

    #[test]
    fn gaps_in_ids_do_not_cause_large_rows() {
        let far = seen((1..=5000).map(|number| number << 40));
        assert_eq!((far.runs(), far.find(5000 << 40), far.find(1 << 40)), (MOST_RUNS, Some(false), None));
        assert!(far.to_bytes().len() <= 12 * 1024);
        assert_eq!(Seen::parse(&far.to_bytes()).unwrap(), far);
    }

    #[test]
    fn a_row_that_was_never_written_is_an_error() {
        for bytes in [&[0, 0][..], &[1], &[0x80; 12], &[1, 0xff, 0xff, 0xff, 0x7f]] {
            assert!(Seen::parse(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(Seen::parse(&[]).unwrap(), Seen::default());
    }
}
