//! About how long things take, so that the clock need not be looked at for each (in no unit: a QoS 0 publish that joins its
//! run costs 1).

/// Whatever comes in.
pub(crate) const PACKET: u32 = 1;
/// A run that is delivered.
pub(crate) const RUN: u32 = 8;
/// A request: to the application, to the store, about subscriptions.
pub(crate) const REQUEST: u32 = 64;
/// After so much the clock is looked at.
pub(crate) const LOOK: u32 = 64;
