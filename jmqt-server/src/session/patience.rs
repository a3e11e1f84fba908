//! The number of errors after which a connection is closed (protocol.md 2.1, 2.5).

/// The number of consecutive bad packets that end a connection (protocol.md 2.5).
const BAD_PACKETS: u8 = 16;
/// The number of refused `auth` and `conn` packets that end a connection (protocol.md 2.1).
const REFUSALS: u8 = 5;
/// The number of `auth` packets that are answered before a session (protocol.md 2.1).
const AUTHS: u8 = 20;

/// The errors of the client so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    bad_in_a_row: u8,
    /// The number of `auth`s before a session.
    auths: u8,
    /// The number of refused `auth`s and `conn`s.
    refusals: u8,
}

impl Patience {
    /// Counts a bad packet; returns `true` if the connection continues.
    pub(super) fn survives_bad_packet(&mut self) -> bool {
        self.bad_in_a_row += 1;
        self.bad_in_a_row < BAD_PACKETS
    }

    pub(super) fn good_packet(&mut self) {
        self.bad_in_a_row = 0;
    }

    /// Counts an `auth` before a session; returns `true` if it is answered.
    pub(super) fn survives_auth(&mut self) -> bool {
        let is_answered = self.auths < AUTHS;
        self.auths += u8::from(is_answered);
        is_answered
    }

    /// Counts a refused `auth` or `conn`; returns `true` if the connection continues.
    pub(super) fn survives_refusal(&mut self) -> bool {
        self.refusals += 1;
        self.refusals < REFUSALS
    }
}
