//! Counts every failure of the store, and logs it at most once a minute.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::StoreError;
use crate::counters::Counters;
use crate::log_limit::LogLimit;

/// Counts a failure, and logs it if the last line with the same text is a minute old. Otherwise, every retry of a client
/// would write a line while a database is unavailable.
pub(crate) fn store_failed(counters: &Counters, what: &'static str, error: &StoreError) {
    static KINDS: Mutex<BTreeMap<&'static str, LogLimit>> = Mutex::new(BTreeMap::new());
    counters.store_failures.increment();
    let left_out = {
        let mut kinds = KINDS.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.entry(what).or_insert_with(LogLimit::new).permit()
    };
    if let Some(left_out) = left_out {
        tracing::error!(target: "jmqt::store", %error, left_out, "{what}");
    }
}
