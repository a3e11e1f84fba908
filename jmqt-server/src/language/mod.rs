//! What clients speak: each room makes packets verbs of the session, and what comes of them answers.
//!
//! A language reads packets here, above the session, and has them encoded below the outbox. Each room offers the same:
//! handle one packet, and say goodbye.

pub(crate) mod jmqt;
