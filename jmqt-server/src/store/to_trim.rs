//! Schedules the trimming of logs, including logs that cannot be trimmed.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::ChannelKey;

/// The number of channels in one turn.
const CHANNELS_AT_A_TIME: usize = 64;
/// The first pause of a channel that cannot be trimmed,
const SHORTEST: Duration = Duration::from_secs(1);
/// and the longest one.
const LONGEST: Duration = Duration::from_secs(60);

/// Channels that may have messages to trim.
#[derive(Debug, Default)]
pub(super) struct ToTrim {
    channels: BTreeSet<ChannelKey>,
    /// The number of turns that handle only one channel each, as briefly as possible, because a longer turn has failed.
    careful_turns: usize,
    /// Channels that could not be trimmed, with the end and the length of their pause.
    set_aside: HashMap<ChannelKey, (Instant, Duration), foldhash::fast::RandomState>,
}

impl ToTrim {
    /// Adds channels, except those in a pause.
    pub(super) fn extend<'k>(&mut self, channels: impl IntoIterator<Item = &'k ChannelKey>) {
        let now = Instant::now();
        let waits = |key: &ChannelKey| self.set_aside.get(key).is_some_and(|(until, _)| now < *until);
        self.channels.extend(channels.into_iter().filter(|key| !waits(key)));
    }

    /// Takes the channels of the next turn, and returns if the turn must be short. Channels that are added meanwhile
    /// stay.
    pub(super) fn next_turn(&mut self, now: Instant) -> (Vec<ChannelKey>, bool) {
        if !self.set_aside.is_empty() {
            let waited = self.set_aside.iter().filter(|(_, (until, _))| now >= *until);
            self.channels.extend(waited.map(|(key, _)| *key));
        }
        let is_careful = self.careful_turns > 0;
        let most = if is_careful { 1 } else { CHANNELS_AT_A_TIME };
        let mut turn = Vec::new();
        while turn.len() < most
            && let Some(key) = self.channels.pop_first()
        {
            turn.push(key);
        }
        (turn, is_careful)
    }

    /// Records the finished channels of a turn; the others continue.
    pub(super) fn worked(&mut self, turn: &[ChannelKey], done: &[ChannelKey]) {
        self.careful_turns = self.careful_turns.saturating_sub(1);
        self.channels.extend(turn.iter().filter(|key| !done.contains(key)));
        for key in done {
            self.set_aside.remove(key);
        }
    }

    /// Records a turn that failed independently of its channels. The next turns are short.
    pub(super) fn interrupted(&mut self, turn: &[ChannelKey]) {
        self.careful_turns = CHANNELS_AT_A_TIME;
        self.channels.extend(turn);
    }

    /// Records a turn that failed because of data in the database. A single channel pauses; several channels are
    /// tried one by one.
    pub(super) fn failed(&mut self, channels: &[ChannelKey], now: Instant) {
        let [key] = channels else { return self.interrupted(channels) };
        self.careful_turns = self.careful_turns.saturating_sub(1);
        let pause = self.set_aside.get(key).map_or(SHORTEST, |(_, pause)| (*pause * 2).min(LONGEST));
        self.set_aside.insert(*key, (now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_of_a_channel_that_cannot_be_trimmed_grows_and_others_continue() {
        let keys: Vec<_> = (1..=100).map(ChannelKey).collect();
        let mut to_trim = ToTrim::default();
        to_trim.extend(&keys);
        let (mut now, mut tries, mut done) = (Instant::now(), 0, BTreeSet::new());
        for _ in 0..600 {
            loop {
                let (turn, is_careful) = to_trim.next_turn(now);
                if turn.is_empty() {
                    break;
                }
                assert!(!is_careful || turn.len() == 1);
                if turn.contains(&ChannelKey(7)) {
                    tries += 1;
                    to_trim.failed(&turn, now);
                } else {
                    done.extend(turn.iter().copied());
                    to_trim.worked(&turn, &turn);
                }
            }
            assert_eq!(done.len(), 99, "in the first second");
            now += Duration::from_secs(1);
            to_trim.extend(&[]);
        }
        assert!((10..=20).contains(&tries), "{tries} in ten minutes");
    }
}
