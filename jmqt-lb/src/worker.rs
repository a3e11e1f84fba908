//! The threads that forward. Each has an epoll of its own and asks it for news of its connections, which
//! never change threads: a message costs that question, a read and a write, and no runtime is in between.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use slab::Slab;
use tokio::runtime::Handle;

use crate::connection;
use crate::forward::{End, Pipe, Turn};
use crate::gate::{Gate, Place};

/// Events taken from the system at a time.
const EVENTS: usize = 256;

/// Connections have the others, two each.
const WAKER: Token = Token(usize::MAX);

/// All threads. Dropping it ends what still runs.
pub(crate) struct Workers {
    pub(crate) ways: Arc<[Way]>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to one thread.
pub(crate) struct Way {
    arrivals: mpsc::Sender<Arrival>,
    waker: Waker,
    live: Arc<Gate>,
    is_stopping: Arc<AtomicBool>,
}

/// A connection that is to be forwarded, and its place on the thread.
type Arrival = (Pipe, Place);

impl Workers {
    /// Starts that many threads; 0 for one per processor. A client that needs another backend is looked
    /// after by the runtime that this is called in.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        let mut failure = None;
        let started =
            (0..threads).map_while(|number| start(number).map_err(|error| failure = Some(error)).ok());
        let (ways, threads): (Vec<_>, _) = started.unzip();
        let workers = Self { ways: ways.into(), threads };
        // Dropped, it ends those that have started.
        failure.map_or(Ok(workers), Err)
    }

    pub(crate) fn count(&self) -> usize {
        self.ways.len()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for way in &*self.ways {
            way.is_stopping.store(true, Ordering::Release);
            // It fails only if the thread has ended.
            let _ = way.waker.wake();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Gives the connection to the thread with the fewest.
pub(crate) fn forward(ways: &[Way], pipe: Pipe) {
    let Some(way) = ways.iter().min_by_key(|way| way.live.inside()) else { return };
    // Both fail only if the thread has ended, and then the connection is closed.
    let _ = way.arrivals.send((pipe, way.live.enter()));
    let _ = way.waker.wake();
}

fn start(number: usize) -> io::Result<(Way, JoinHandle<()>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let (sender, arrivals) = mpsc::channel();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let worker = Worker {
        poll,
        arrivals,
        is_stopping: Arc::clone(&is_stopping),
        runtime: Handle::current(),
        entries: Slab::new(),
        alarms: BTreeSet::new(),
        again: Vec::new(),
        buffer: Vec::new(),
    };
    let thread = std::thread::Builder::new().name(format!("forward-{number}"));
    let thread = thread.spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
        // Its connections are gone, and as it has the fewest now, all that come would go to it.
        if !matches!(outcome, Ok(Ok(()))) {
            eprintln!("jmqt-lb: a forwarding thread has failed: {outcome:?}");
            std::process::abort();
        }
    })?;
    Ok((Way { arrivals: sender, waker, live: Gate::new(usize::MAX), is_stopping }, thread))
}

/// What a thread works on.
struct Worker {
    poll: Poll,
    arrivals: mpsc::Receiver<Arrival>,
    is_stopping: Arc<AtomicBool>,
    runtime: Handle,
    /// The number of an entry gives it its tokens: twice that for the client, one more for the backend.
    entries: Slab<Box<Entry>>,
    /// When to look whether a connection is idle: one alarm each.
    alarms: BTreeSet<(Instant, usize)>,
    /// Who had more to do than one turn.
    again: Vec<usize>,
    /// Lent to whoever reads; nothing is in it between two turns.
    buffer: Vec<u8>,
}

struct Entry {
    pipe: Pipe,
    /// Its alarm. What moves does not set it back: it is looked at when it goes off.
    alarm: Instant,
    is_in_again: bool,
    _place: Place,
}

impl Worker {
    /// Forwards until it is told to stop.
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_stopping.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, self.time_to_wait()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                asked => asked?,
            }
            let now = Instant::now();
            let again = std::mem::take(&mut self.again);
            let mut is_woken = false;
            for event in &events {
                let Token(token) = event.token();
                if event.token() == WAKER {
                    is_woken = true;
                } else if let Some(entry) = self.entries.get_mut(token / 2) {
                    entry.pipe.note(token % 2 == 1, event);
                    self.turn(token / 2, now);
                }
            }
            for key in again {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.is_in_again = false;
                    self.turn(key, now);
                }
            }
            self.end_idle(now);
            // Last, so that no event of this round can be taken for one of an entry that is new.
            if is_woken {
                while let Ok(arrival) = self.arrivals.try_recv() {
                    self.take(arrival, now);
                }
            }
        }
        Ok(())
    }

    /// `None` for as long as nothing happens.
    fn time_to_wait(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        self.alarms.first().map(|(alarm, _)| alarm.saturating_duration_since(Instant::now()))
    }

    fn take(&mut self, (mut pipe, place): Arrival, now: Instant) {
        let slot = self.entries.vacant_entry();
        let key = slot.key();
        if let Err(error) = pipe.register(self.poll.registry(), [Token(2 * key), Token(2 * key + 1)]) {
            return pipe.connection.found_no_room(&error);
        }
        let alarm = pipe.is_idle_at().max(now);
        self.alarms.insert((alarm, key));
        slot.insert(Box::new(Entry { pipe, alarm, is_in_again: false, _place: place }));
    }

    fn turn(&mut self, key: usize, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match entry.pipe.turn(&mut self.buffer, now) {
            Turn::Done => {}
            Turn::HasMore if std::mem::replace(&mut entry.is_in_again, true) => {}
            Turn::HasMore => self.again.push(key),
            Turn::Ended(end) => return self.end(key, &end),
        }
        if entry.pipe.is_idle_at() < entry.alarm {
            self.set_alarm(key);
        }
    }

    fn set_alarm(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.alarms.remove(&(entry.alarm, key));
        entry.alarm = entry.pipe.is_idle_at();
        self.alarms.insert((entry.alarm, key));
    }

    fn end_idle(&mut self, now: Instant) {
        while let Some(&(alarm, key)) = self.alarms.first().filter(|(alarm, _)| *alarm <= now) {
            self.alarms.remove(&(alarm, key));
            let is_idle =
                |worker: &Self| worker.entries.get(key).is_some_and(|entry| entry.pipe.is_idle_at() <= now);
            if is_idle(self) {
                // If this machine stood still, there may be more news than were taken.
                self.entries[key].pipe.expect_news();
                self.turn(key, now);
            }
            if is_idle(self) {
                self.end(key, &End::Idle);
            } else {
                self.set_alarm(key);
            }
        }
    }

    fn end(&mut self, key: usize, end: &End) {
        let entry = self.entries.remove(key);
        self.alarms.remove(&(entry.alarm, key));
        if entry.is_in_again {
            self.again.retain(|again| *again != key);
        }
        let backend = Arc::clone(&entry.pipe.lease.backend);
        entry.pipe.connection.ended(&backend, end);
        if matches!(end, End::Unused(_)) {
            let (mut connection, client, up) = entry.pipe.into_client(self.poll.registry());
            if !up.is_pointless(&client) {
                connection.tried.push(backend.address);
                self.runtime.spawn(connection::serve(connection, client, up));
            }
        }
    }
}
