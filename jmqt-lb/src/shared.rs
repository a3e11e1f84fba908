//! What all mappings have in common: the accepting thread, lookups and the status page read it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backends::Nodes;
use crate::config::Options;
use crate::gate::Gate;
use crate::mapping::Mapping;
use crate::worker::Workers;

/// What all mappings have in common.
pub(crate) struct Shared {
    pub(crate) gate: Arc<Gate>,
    pub(crate) workers: Workers,
    pub(crate) buffer_size: AtomicUsize,
    pub(crate) counters: Counters,
    pub(crate) nodes: Nodes,
    is_draining: AtomicBool,
    options: Mutex<Arc<Options>>,
    /// For the status page, in the order of the file.
    mappings: Mutex<Vec<Arc<Mapping>>>,
}

/// Counts since the start.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) reloads: AtomicU64,
    pub(crate) failed_reloads: AtomicU64,
}

impl Shared {
    pub(crate) fn new(gate: Arc<Gate>, workers: Workers, options: Options) -> Self {
        Self {
            gate,
            workers,
            buffer_size: AtomicUsize::new(options.buffer_size),
            counters: Counters::default(),
            nodes: Nodes::default(),
            is_draining: AtomicBool::new(false),
            options: Mutex::new(Arc::new(options)),
            mappings: Mutex::default(),
        }
    }

    pub(crate) fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on with other options; returns the ones before.
    pub(crate) fn set_options(&self, options: Options) -> Arc<Options> {
        self.buffer_size.store(options.buffer_size, Ordering::Relaxed);
        let mut current = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, Arc::new(options))
    }

    pub(crate) fn mappings(&self) -> Vec<Arc<Mapping>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows these on the status page.
    pub(crate) fn set_mappings(&self, mappings: Vec<Arc<Mapping>>) {
        *self.mappings.lock().unwrap_or_else(PoisonError::into_inner) = mappings;
    }

    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}
