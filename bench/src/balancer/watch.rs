//! A small wrapper of epoll: level-triggered, with numbers for sockets.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::Result;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

const READY: usize = 256;

/// The sockets that are waited for.
pub(super) struct Watch {
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
}

impl Watch {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, ready: Vec::with_capacity(READY) })
    }

    /// Waits for this socket too, under this number.
    pub(super) fn add(&self, socket: &impl AsFd, number: usize, flags: EventFlags) -> Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(number as u64), flags)?;
        Ok(())
    }

    /// Waits, not for ever, and answers the numbers of sockets that are ready.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<impl Iterator<Item = usize>> {
        let limit = Timespec::try_from(limit)?;
        self.ready.clear();
        let ready = rustix::buffer::spare_capacity(&mut self.ready);
        match epoll::wait(&self.epoll, ready, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.ready.iter().map(|event| {
            let data = event.data;
            data.u64() as usize
        }))
    }
}
