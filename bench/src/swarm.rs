//! All client connections of a run, and the one loop that waits for them.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustls::ClientConfig;

use crate::connection::Connection;
use crate::dialect::{Dialect, Event};
use crate::plan::Names;
use crate::wire::Wire;

/// The most that one read takes.
const READ_BUFFER: usize = 256 * 1024;
/// Sockets reported by one wait.
const READY: usize = 1024;
/// A server that sends nothing for this long has failed the run.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A client to be connected: its name, and the streams that it subscribes to.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) streams: Range<u32>,
    pub(crate) names: Names,
    pub(crate) dialect: Box<dyn Dialect>,
    /// Which of the endpoints it connects to.
    pub(crate) endpoint: usize,
}

/// Where and how members connect.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// The connections, by index, and their epoll.
pub(crate) struct Swarm {
    epoll: OwnedFd,
    pub(crate) connections: Vec<Connection>,
    ready: Vec<epoll::Event>,
    buffer: Vec<u8>,
    events: Vec<Event>,
}

impl Swarm {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            connections: Vec::new(),
            ready: Vec::with_capacity(READY),
            buffer: vec![0; READ_BUFFER],
            events: Vec::new(),
        })
    }

    /// Connects, authenticates and subscribes all members, `parallel` of them at a time, and returns when
    /// the server has confirmed every subscription. Connections keep the members' order.
    pub(crate) fn join(
        &mut self,
        endpoints: &[Endpoint],
        members: Vec<Member>,
        parallel: usize,
    ) -> Result<()> {
        let first = self.connections.len();
        let total = members.len();
        let mut waiting = members.into_iter();
        let mut streams = Vec::with_capacity(total);
        let mut confirmations_due = Vec::with_capacity(total);
        let mut joined = 0;
        let mut last_progress = Instant::now();
        while joined < total {
            while streams.len() - joined < parallel
                && let Some(member) = waiting.next()
            {
                let index = self.connect(&endpoints[member.endpoint], member.dialect)?;
                let connection = &mut self.connections[index];
                connection.dialect.open(&member.name, &mut connection.outgoing);
                self.flush(index)?;
                confirmations_due.push(1 + member.streams.len());
                streams.push((member.streams, member.names));
            }
            self.poll(Some(Duration::from_millis(100)), |connections, index, events| {
                let Some(member) = index.checked_sub(first) else {
                    return Ok(());
                };
                for event in events {
                    last_progress = Instant::now();
                    match event {
                        Event::Opened => {
                            let Connection { dialect, outgoing, .. } = &mut connections[index];
                            let (streams, names) = &streams[member];
                            for stream in streams.clone() {
                                dialect.subscribe(&names.subscribed(stream), outgoing);
                            }
                        }
                        Event::Subscribed => {}
                        other => bail!("{other:?} before the start"),
                    }
                    confirmations_due[member] -= 1;
                    joined += usize::from(confirmations_due[member] == 0);
                }
                Ok(())
            })?;
            if last_progress.elapsed() > PATIENCE {
                bail!("{joined} of {total} clients got in, then nothing more");
            }
        }
        Ok(())
    }

    /// Waits once, reads every ready connection once, and shows `handle` the events of each. What was
    /// appended to connections that had events is flushed. Answers how many sockets were ready.
    pub(crate) fn poll(
        &mut self,
        timeout: Option<Duration>,
        mut handle: impl FnMut(&mut [Connection], usize, &[Event]) -> Result<()>,
    ) -> Result<usize> {
        let timeout = timeout.map(Timespec::try_from).transpose()?;
        self.ready.clear();
        let ready = rustix::buffer::spare_capacity(&mut self.ready);
        match epoll::wait(&self.epoll, ready, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.ready.len() {
            let data = self.ready[at].data;
            let index = data.u64() as usize;
            let flags = self.ready[at].flags;
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.events.clear();
                self.connections[index]
                    .receive(&mut self.buffer, &mut self.events)
                    .with_context(|| format!("connection {index}"))?;
                handle(&mut self.connections, index, &self.events)?;
            }
            self.flush(index)?;
        }
        Ok(self.ready.len())
    }

    /// Lets every client give a sign of life: most subscribers only listen.
    pub(crate) fn heartbeat(&mut self) -> Result<()> {
        for index in 0..self.connections.len() {
            let Connection { dialect, outgoing, .. } = &mut self.connections[index];
            dialect.heartbeat(outgoing);
            self.flush(index)?;
        }
        Ok(())
    }

    /// Writes what this connection has to send; if the kernel does not take it all, epoll tells when to go on.
    pub(crate) fn flush(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let is_blocked = connection.flush().with_context(|| format!("connection {index}"))?;
        if is_blocked != connection.is_watched_for_room {
            connection.is_watched_for_room = is_blocked;
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, is_blocked);
            let data = EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &connection.wire, data, flags)?;
        }
        Ok(())
    }

    fn connect(&mut self, endpoint: &Endpoint, dialect: Box<dyn Dialect>) -> Result<usize> {
        let index = self.connections.len();
        let wire = Wire::connect(endpoint.address, endpoint.tls.as_ref())?;
        let data = EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &wire, data, EventFlags::IN)?;
        self.connections.push(Connection::new(wire, dialect));
        Ok(index)
    }
}
