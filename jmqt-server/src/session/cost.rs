//! Approximate costs of operations, so that the clock is not read for each of them. The unit is a QoS 0 publish that
//! joins its run.

/// Any packet.
pub(crate) const PACKET: u32 = 1;
/// The delivery of a run.
pub(crate) const RUN: u32 = 8;
/// A request to the application or the store, or a change of subscriptions.
pub(crate) const REQUEST: u32 = 64;
/// The cost after which the clock is read.
pub(crate) const LOOK: u32 = 64;
