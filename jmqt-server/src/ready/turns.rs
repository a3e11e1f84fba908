//! Password checks, which take a core each: in turn by address, so that somebody who sends very many does not make the others
//! wait.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The most checks that wait, of one address and together.
const MOST_OF_ADDRESS: usize = 1_000;
const MOST: usize = 10_000;

/// The bits of an IPv6 address that a provider gives to one customer.
const PREFIX: u128 = u128::MAX << 64;

/// As many turns at a time as there are cores. Cheap to clone.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// The addresses for which somebody waits, each once, in the order of their turns.
    order: VecDeque<IpAddr>,
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
    total: usize,
}

/// The right to check one password, until this is dropped.
pub(super) struct Turn(Option<Turns>);

/// Too many checks wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

impl Turns {
    pub(super) fn new(at_a_time: usize) -> Self {
        let (order, waiting) = (VecDeque::new(), HashMap::new());
        Self(Arc::new(Mutex::new(State { free: at_a_time, order, waiting, total: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of this address; without one, those who have none are one address.
    pub(super) async fn take(&self, address: Option<IpAddr>) -> Result<Turn, Crowded> {
        let address = address.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), source_of);
        let turn = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn(Some(self.clone())));
            }
            if state.total >= MOST {
                return Err(Crowded);
            }
            let waiting = state.waiting.entry(address).or_default();
            if waiting.len() >= MOST_OF_ADDRESS {
                return Err(Crowded);
            }
            let (turn, waits) = oneshot::channel();
            waiting.push_back(turn);
            let is_first = waiting.len() == 1;
            if is_first {
                state.order.push_back(address);
            }
            state.total += 1;
            waits
        };
        turn.await.map_err(|_| Crowded)
    }

    /// Passes a turn on to the next address. Those who have stopped waiting are left out.
    fn pass_on(self) {
        loop {
            let next = self.lock().next();
            let Some(next) = next else { return };
            let Err(mut turn) = next.send(Turn(Some(self.clone()))) else { return };
            turn.0 = None; // this goes on with it
        }
    }
}

impl State {
    /// The next who waits; without one, the turn is free.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let Some(address) = self.order.pop_front() else {
            self.free += 1;
            return None;
        };
        let waiting = self.waiting.get_mut(&address);
        let next = waiting.and_then(VecDeque::pop_front);
        if self.waiting.get(&address).is_some_and(|waiting| !waiting.is_empty()) {
            self.order.push_back(address);
        } else {
            self.waiting.remove(&address);
        }
        self.total -= usize::from(next.is_some());
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & PREFIX)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// Waits for a turn in a task, which then says its number.
    async fn queue(turns: &Turns, of: u8, number: u32, said: &tokio::sync::mpsc::UnboundedSender<u32>) {
        let (turns, said, before) = (turns.clone(), said.clone(), turns.lock().total);
        let waiting = turns.clone();
        tokio::spawn(async move {
            let _turn = turns.take(address(of)).await.unwrap();
            said.send(number).unwrap();
        });
        while waiting.lock().total == before {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let turns = Turns::new(1);
        let running = turns.take(address(1)).await.unwrap();
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..50 {
            queue(&turns, 1, number, &say).await;
        }
        for number in 100..102 {
            queue(&turns, 2, number, &say).await;
        }
        drop(running);
        let mut order = Vec::new();
        for _ in 0..52 {
            order.push(said.recv().await.unwrap());
        }
        assert_eq!(order[..6], [0, 100, 1, 101, 2, 3]);
        let state = turns.lock();
        assert_eq!((state.free, state.total, state.waiting.len(), state.order.len()), (1, 0, 0, 0));
    }

    #[tokio::test]
    async fn who_has_stopped_waiting_takes_no_turn() {
        let turns = Turns::new(1);
        let running = turns.take(address(1)).await.unwrap();
        for _ in 0..MOST_OF_ADDRESS {
            let mut waiting = Box::pin(turns.take(address(1)));
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        assert_eq!(turns.take(address(1)).await.map(drop), Err(Crowded));
        let mut waiting = Box::pin(turns.take(address(2)));
        assert!(futures_util::poll!(&mut waiting).is_pending(), "another address may wait");
        drop(running);
        drop(waiting.await.unwrap());
        drop(turns.take(None).await.unwrap());
        let state = turns.lock();
        assert_eq!((state.free, state.total, state.waiting.len()), (1, 0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::1"), of("2001:db8:1:2:ffff::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
