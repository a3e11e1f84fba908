//! What a client may get wrong before its connection is closed (protocol.md 2.1, 2.5).

/// How many bad packets in a row end a connection (protocol.md 2.5).
const BAD_PACKETS: u8 = 16;
/// How many refused `auth` and `conn` packets end a connection (protocol.md 2.1).
const REFUSALS: u8 = 5;
/// How many `auth` packets are answered before a session (protocol.md 2.1).
const AUTHS: u8 = 20;

/// What the client has got wrong so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    bad_in_a_row: u8,
    /// `auth`s before a session.
    auths: u8,
    /// `auth`s and `conn`s that were refused.
    refusals: u8,
}

impl Patience {
    /// Counts a bad packet, and says whether the connection goes on.
    pub(super) fn survives_bad_packet(&mut self) -> bool {
        self.bad_in_a_row += 1;
        self.bad_in_a_row < BAD_PACKETS
    }

    pub(super) fn good_packet(&mut self) {
        self.bad_in_a_row = 0;
    }

    /// Counts an `auth` before a session, and says whether it is answered.
    pub(super) fn survives_auth(&mut self) -> bool {
        let is_answered = self.auths < AUTHS;
        self.auths += u8::from(is_answered);
        is_answered
    }

    /// Counts a refused `auth` or `conn`, and says whether the connection goes on.
    pub(super) fn survives_refusal(&mut self) -> bool {
        self.refusals += 1;
        self.refusals < REFUSALS
    }
}
