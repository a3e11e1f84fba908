//! The choice of one backend among those that may be chosen.
//!
//! Pure: no clock, no sockets. Who may be chosen, and what became of it, is for `backends`.

use std::net::{IpAddr, SocketAddr};

use crate::config::Balance;

/// A backend that may be chosen.
pub(crate) struct Candidate<'m> {
    pub(crate) address: SocketAddr,
    /// 1 to 1000: how much of the load it should have, compared with others.
    pub(crate) weight: u32,
    /// Connections it has now.
    pub(crate) active: usize,
    /// Its position in the round; kept between choices, 0 at first.
    pub(crate) turn: &'m mut i64,
}

/// Picks one of `candidates`, by its index; `None` if there are none. `rotation` is kept between
/// choices, and makes equals take turns.
pub(crate) fn choose(
    balance: Balance,
    candidates: &mut [Candidate<'_>],
    client: IpAddr,
    rotation: &mut usize,
) -> Option<usize> {
    match balance {
        Balance::LeastConnections => least_connections(candidates, rotation),
        Balance::RoundRobin => round_robin(candidates),
        Balance::SourceHash => source_hash(candidates, client),
    }
}

/// The one that would have the fewest connections for its weight with one more.
fn least_connections(candidates: &[Candidate<'_>], rotation: &mut usize) -> Option<usize> {
    let count = candidates.len();
    if count == 0 {
        return None;
    }
    *rotation = rotation.wrapping_add(1);
    // a/v < b/w as a*w < b*v: exact.
    let load = |index: usize, other: usize| {
        (candidates[index].active as u128 + 1) * u128::from(candidates[other].weight)
    };
    let start = *rotation % count;
    (0..count)
        .map(|step| (start + step) % count)
        .reduce(|best, next| if load(next, best) < load(best, next) { next } else { best })
}

/// Smooth weighted round robin: with weights 3 and 1 it gives a a b a, not a a a b.
fn round_robin(candidates: &mut [Candidate<'_>]) -> Option<usize> {
    let total: i64 = candidates.iter().map(|candidate| i64::from(candidate.weight)).sum();
    for candidate in candidates.iter_mut() {
        // Turns of backends that come and go do not add up to 0; keep them within one round.
        *candidate.turn = (*candidate.turn + i64::from(candidate.weight)).clamp(-total, total);
    }
    let highest = (0..candidates.len())
        .reduce(|best, next| if *candidates[next].turn > *candidates[best].turn { next } else { best })?;
    *candidates[highest].turn -= total;
    Some(highest)
}

/// Weighted rendezvous hashing: a client keeps its backend as long as that is there, whatever happens to
/// the others, after a restart and on every balancer with the same file.
fn source_hash(candidates: &[Candidate<'_>], client: IpAddr) -> Option<usize> {
    let score = |candidate: &Candidate<'_>| {
        // 53 bits, so that the quotient is exact and within (0, 1].
        let unit = ((hash(client, candidate.address) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -unit.ln() / f64::from(candidate.weight)
    };
    let scored = candidates.iter().map(score).enumerate();
    scored.min_by(|(_, left), (_, right)| left.total_cmp(right)).map(|(index, _)| index)
}

/// FNV-1a over both addresses, then the finish of splitmix64, as FNV alone is weak in the high bits.
/// Fixed for good: the standard library's hashes may change.
fn hash(client: IpAddr, backend: SocketAddr) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for address in [client, backend.ip()] {
        match address {
            IpAddr::V4(address) => add(&address.octets()),
            IpAddr::V6(address) => add(&address.octets()),
        }
    }
    add(&backend.port().to_be_bytes());
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fleet {
        backends: Vec<(SocketAddr, u32, usize, i64)>,
        rotation: usize,
    }

    impl Fleet {
        fn new(weights: &[u32]) -> Self {
            let backends = weights.iter().enumerate().map(|(index, weight)| {
                (SocketAddr::from(([10, 0, 0, 1], 9000 + u16::try_from(index).unwrap())), *weight, 0, 0)
            });
            Self { backends: backends.collect(), rotation: 0 }
        }

        fn choose(&mut self, balance: Balance, client: IpAddr) -> usize {
            let mut candidates: Vec<_> = self
                .backends
                .iter_mut()
                .map(|(address, weight, active, turn)| Candidate {
                    address: *address,
                    weight: *weight,
                    active: *active,
                    turn,
                })
                .collect();
            choose(balance, &mut candidates, client, &mut self.rotation).unwrap()
        }
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::from((0x0a01_0000 + number).to_be_bytes())
    }

    #[test]
    fn without_backends_none_is_chosen() {
        for balance in [Balance::LeastConnections, Balance::RoundRobin, Balance::SourceHash] {
            assert_eq!(choose(balance, &mut [], client(1), &mut 0), None);
        }
    }

    #[test]
    fn connections_are_shared_by_weight() {
        let mut fleet = Fleet::new(&[1, 2, 5]);
        for _ in 0..800 {
            let chosen = fleet.choose(Balance::LeastConnections, client(1));
            fleet.backends[chosen].2 += 1;
        }
        let active: Vec<_> = fleet.backends.iter().map(|backend| backend.2).collect();
        assert_eq!(active, [100, 200, 500]);
    }

    #[test]
    fn equals_take_turns_when_connections_are_short() {
        let mut fleet = Fleet::new(&[1, 1, 1]);
        let mut counts = [0; 3];
        (0..30).for_each(|_| counts[fleet.choose(Balance::LeastConnections, client(1))] += 1);
        assert_eq!(counts, [10, 10, 10]);
    }

    #[test]
    fn the_round_is_smooth() {
        let mut fleet = Fleet::new(&[3, 1]);
        let order: Vec<_> = (0..8).map(|_| fleet.choose(Balance::RoundRobin, client(1))).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_client_keeps_its_backend_when_another_is_removed() {
        let mut fleet = Fleet::new(&[1, 1, 1, 1]);
        let before: Vec<_> = (0..1000).map(|n| fleet.choose(Balance::SourceHash, client(n))).collect();
        fleet.backends.pop();
        for (number, before) in (0..1000).zip(&before) {
            let after = fleet.choose(Balance::SourceHash, client(number));
            assert!(*before == 3 || *before == after);
        }
        for backend in 0..4 {
            let share = before.iter().filter(|chosen| **chosen == backend).count();
            assert!((200..300).contains(&share), "{share}");
        }
    }

    #[test]
    fn clients_are_shared_by_weight() {
        let mut fleet = Fleet::new(&[1, 3]);
        let heavy = (0..4000).filter(|n| fleet.choose(Balance::SourceHash, client(*n)) == 1).count();
        assert!((2850..3150).contains(&heavy), "{heavy}");
    }

    #[test]
    fn the_hash_never_changes() {
        let address = SocketAddr::from(([10, 0, 0, 1], 9000));
        // From the first version: another value would move clients to other backends.
        assert_eq!(hash(client(1), address), 14_684_915_350_673_404_021);
    }
}
