//! Approximate costs of operations, so that the clock is not read for each of them. The unit is a QoS 0 publish that
//! joins its run.

/// Any packet.
pub(crate) const PACKET: u16 = 1;
/// The delivery of a run.
pub(crate) const RUN: u16 = 8;
/// A request to the application or the store, or a change of subscriptions.
pub(crate) const REQUEST: u16 = 64;
/// The cost after which the clock is read.
pub(crate) const LOOK: u16 = 64;
