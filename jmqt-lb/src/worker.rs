//! The threads that forward. Each has an epoll of its own and asks it for news of its connections, which
//! never change threads: a message costs that question, a read and a write, and no runtime is in between.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Token, Waker};
use slab::Slab;

use crate::client::Client;
use crate::connection::Connection;
use crate::forward::{End, Turn};
use crate::gate::{Gate, Place};

/// Events taken from the system at a time.
const EVENTS: usize = 256;

/// Connections that are begun before those that exist get their turn. All of a burst at once would only fill the
/// backlogs of the backends, which need the processor to empty them.
const AT_A_TIME: usize = 32;

/// The other tokens belong to connections, two each.
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
    /// The thread has been woken and has not looked at its arrivals since.
    is_woken: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
}

/// A client that is to be forwarded, and its place on the thread.
type Arrival = (Client, TcpStream, Place);

impl Workers {
    /// Starts that many threads; 0 for one per processor.
    ///
    /// # Errors
    /// The system is out of threads or descriptors.
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

/// Gives the client to the thread with the fewest clients, which finds a backend for it.
pub(crate) fn forward(ways: &[Way], client: Client, socket: TcpStream) {
    let Some(way) = ways.iter().min_by_key(|way| way.live.inside()) else { return };
    // Both fail only if the thread has ended, and then the connection is closed.
    let _ = way.arrivals.send((client, socket, way.live.enter()));
    // One system call for all that arrive together.
    if !way.is_woken.swap(true, Ordering::AcqRel) {
        let _ = way.waker.wake();
    }
}

fn start(number: usize) -> io::Result<(Way, JoinHandle<()>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    let (sender, arrivals) = mpsc::channel();
    let [is_woken, is_stopping] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let worker = Worker {
        poll,
        arrivals,
        is_woken: Arc::clone(&is_woken),
        is_stopping: Arc::clone(&is_stopping),
        entries: Slab::new(),
        alarms: BTreeSet::new(),
        again: Vec::new(),
        unserved: Vec::new(),
        has_arrivals: false,
        buffer: Vec::new(),
    };
    let thread = std::thread::Builder::new().name(format!("forward-{number}"));
    let thread = thread.spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
        // Its connections are gone; and as it has the fewest now, all new ones would go to it.
        if !matches!(outcome, Ok(Ok(()))) {
            eprintln!("jmqt-lb: a forwarding thread has failed: {outcome:?}");
            std::process::abort();
        }
    })?;
    Ok((Way { arrivals: sender, waker, live: Gate::new(usize::MAX, None), is_woken, is_stopping }, thread))
}

/// What a thread works on.
struct Worker {
    poll: Poll,
    arrivals: mpsc::Receiver<Arrival>,
    is_woken: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
    /// The number of an entry gives it its tokens: twice that for the client, one more for the backend.
    entries: Slab<Box<Entry>>,
    /// When to look whether a connection is idle: one alarm each.
    alarms: BTreeSet<(Instant, usize)>,
    /// Connections that had more to do than one turn.
    again: Vec<usize>,
    /// Connections that their backend refused: they get another backend at the end of the round.
    unserved: Vec<usize>,
    /// More arrivals may be there than were taken.
    has_arrivals: bool,
    /// Lent to the connection that reads; empty between two turns.
    buffer: Vec<u8>,
}

struct Entry {
    connection: Connection,
    /// Its alarm. What moves does not set it back: it is looked at when it goes off.
    alarm: Instant,
    is_in_again: bool,
    /// It is listed in `unserved`, and the socket of its backend means nothing.
    is_unserved: bool,
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
                    entry.connection.note(token % 2 == 1, event);
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
            // Last, so that no event of this round can be taken for one of a socket that is new.
            for key in std::mem::take(&mut self.unserved) {
                self.redirect(key, now);
            }
            if is_woken {
                self.is_woken.store(false, Ordering::Release);
                self.has_arrivals = true;
            }
            if self.has_arrivals {
                self.take_arrivals(now);
            }
        }
        Ok(())
    }

    fn take_arrivals(&mut self, now: Instant) {
        for _ in 0..AT_A_TIME {
            let Ok(arrival) = self.arrivals.try_recv() else {
                self.has_arrivals = false;
                return;
            };
            self.take(arrival, now);
        }
    }

    /// `None` for as long as nothing happens.
    fn time_to_wait(&self) -> Option<Duration> {
        if self.has_arrivals || !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        self.alarms.first().map(|(alarm, _)| alarm.saturating_duration_since(Instant::now()))
    }

    fn take(&mut self, (mut client, socket, place): Arrival, now: Instant) {
        let Some(backend) = client.dial() else { return client.refused() };
        let mut connection = Connection::new(client, socket, backend, now);
        let slot = self.entries.vacant_entry();
        let key = slot.key();
        if let Err(error) = connection.register(self.poll.registry(), [Token(2 * key), Token(2 * key + 1)]) {
            return connection.client.found_no_room(&error);
        }
        let alarm = connection.is_idle_at();
        self.alarms.insert((alarm, key));
        slot.insert(Box::new(Entry {
            connection,
            alarm,
            is_in_again: false,
            is_unserved: false,
            _place: place,
        }));
    }

    /// Has another backend take the client of an entry, or ends it.
    fn redirect(&mut self, key: usize, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.is_unserved = false;
        let Some(backend) = entry.connection.next_backend() else {
            entry.connection.client.refused();
            return self.remove(key);
        };
        if let Err(error) =
            entry.connection.redirect(backend, (self.poll.registry(), Token(2 * key + 1)), now)
        {
            entry.connection.client.found_no_room(&error);
            return self.remove(key);
        }
        self.set_alarm(key);
    }

    fn turn(&mut self, key: usize, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.is_unserved {
            return;
        }
        match entry.connection.turn(&mut self.buffer, now) {
            Turn::Done => {}
            Turn::HasMore if std::mem::replace(&mut entry.is_in_again, true) => {}
            Turn::HasMore => self.again.push(key),
            Turn::Ended(end) => return self.end(key, &end),
        }
        if entry.connection.is_idle_at() < entry.alarm {
            self.set_alarm(key);
        }
    }

    fn set_alarm(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.alarms.remove(&(entry.alarm, key));
        entry.alarm = entry.connection.is_idle_at();
        self.alarms.insert((entry.alarm, key));
    }

    fn end_idle(&mut self, now: Instant) {
        let mut begun_again = 0;
        while let Some(&(alarm, key)) = self.alarms.first().filter(|(alarm, _)| *alarm <= now) {
            self.alarms.remove(&(alarm, key));
            let is_idle = |worker: &Self| {
                let entry = worker.entries.get(key);
                entry.is_some_and(|entry| !entry.is_unserved && entry.connection.is_idle_at() <= now)
            };
            if is_idle(self) {
                // If this machine stood still, there may be more news than were taken.
                self.entries[key].connection.expect_news();
                self.turn(key, now);
            }
            if is_idle(self) && self.entries[key].connection.is_overdue(now) {
                self.connect_again(key, now);
                begun_again += 1;
                if begun_again == AT_A_TIME {
                    return;
                }
            } else if is_idle(self) {
                let end = self.entries[key].connection.end_of_time();
                self.end(key, &end);
            } else {
                self.set_alarm(key);
            }
        }
    }

    fn connect_again(&mut self, key: usize, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match entry.connection.connect_again((self.poll.registry(), Token(2 * key + 1)), now) {
            Ok(()) => self.set_alarm(key),
            Err(error) => self.end(key, &End::Unreached(error)),
        }
    }

    fn end(&mut self, key: usize, end: &End) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let connection = &mut entry.connection;
        let backend = Arc::clone(&connection.lease.backend);
        let goes_on = match end {
            End::Unreached(error) => connection.client.not_reached(&backend, error).is_continue(),
            End::Unused(_) => {
                connection.client.ended(&backend, end);
                connection.client.tried.push(backend.address);
                true
            }
            End::Closed | End::Lost(_) | End::Idle => {
                connection.client.ended(&backend, end);
                return self.remove(key);
            }
        };
        if goes_on {
            entry.is_unserved = true;
            self.unserved.push(key);
        } else {
            connection.client.refused();
            self.remove(key);
        }
    }

    fn remove(&mut self, key: usize) {
        let entry = self.entries.remove(key);
        self.alarms.remove(&(entry.alarm, key));
        if entry.is_in_again {
            self.again.retain(|again| *again != key);
        }
    }
}
