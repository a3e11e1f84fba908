//! Simulated nodes, a thread each. They send heartbeats, send their sessions on request, and acknowledge the parts of a list.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::bus::{Common, Digest, Ear, Heard, Mouth, Voice, everybody, of_node};

/// As the server does it.
const IN_ONE_PART: usize = 500;
const ON_THEIR_WAY: u64 = 4;
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// The number of connections by which the simulated nodes publish; each node has its own to receive.
const MOUTHS: usize = 8;
/// How long a node waits without a message: the others send heartbeats every second.
const PATIENCE: Duration = Duration::from_secs(30);
const STACK_BYTES: usize = 256 << 10;

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has been told all of the server's sessions.
    Told,
    /// The server has heard all of its sessions.
    Heard,
}

/// All simulated nodes of a row.
pub(crate) struct Crowd {
    voices: Vec<Voice>,
    mouths: Arc<[Mutex<Mouth>]>,
    events: Receiver<Result<Event>>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// One of them.
struct Node {
    voice: Voice,
    server: u64,
    sessions: Vec<String>,
    digest: Digest,
    mouths: Arc<[Mutex<Mouth>]>,
    /// The number of the list that is being told, and the next part of it.
    telling: Option<(u64, u64)>,
}

/// A session, as nodes tell of it.
pub(crate) fn presence(client: &str, generation: u64) -> String {
    format!(
        r#"{{"client":"{client}","generation":{generation},"protocol":"SOCKET","address":"127.0.0.1:12345"}}"#
    )
}

fn say(mouths: &[Mutex<Mouth>], node: u64, bytes: &[u8]) -> Result<()> {
    // A node always speaks by the same one, so that its words keep their order.
    let mouth = &mouths[usize::try_from(node)? % mouths.len()];
    mouth.lock().unwrap_or_else(PoisonError::into_inner).say(bytes)
}

impl Crowd {
    /// Starts nodes with this many sessions each; when this returns, all listen.
    pub(crate) fn start(
        redis: SocketAddr,
        server: u64,
        common: &Common,
        nodes: usize,
        each: usize,
    ) -> Result<Self> {
        static FIRST: AtomicU64 = AtomicU64::new(1);
        let first = FIRST.fetch_add(nodes as u64, Ordering::Relaxed);
        let mouths: Result<Vec<_>> = (0..MOUTHS).map(|_| Ok(Mutex::new(Mouth::open(redis)?))).collect();
        let mouths: Arc<[Mutex<Mouth>]> = mouths?.into();
        let (sender, events) = mpsc::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut voices, mut beats, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for number in first..first + nodes as u64 {
            let voice = Voice::new(number, common);
            let ear = Ear::open(redis, &[everybody(), of_node(number)], PATIENCE)?;
            let sessions: Vec<_> = (0..each).map(|client| format!("n{number}-client-{client}")).collect();
            let mut digest = Digest::default();
            sessions.iter().for_each(|client| digest.add(client, 1));
            let node = Node {
                voice: voice.clone(),
                server,
                sessions,
                digest,
                mouths: Arc::clone(&mouths),
                telling: None,
            };
            beats.push((number, voice.beat(digest)));
            voices.push(voice);
            let (events, is_over) = (sender.clone(), Arc::clone(&is_over));
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            threads.push(thread.spawn(move || node.run(ear, &events, &is_over))?);
        }
        let (beating, over) = (Arc::clone(&mouths), Arc::clone(&is_over));
        threads.push(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                for (node, beat) in &beats {
                    if let Err(error) = say(&beating, *node, beat) {
                        drop(sender.send(Err(error)));
                        return;
                    }
                }
                thread::sleep(BEAT_EVERY.saturating_sub(start.elapsed()));
            }
        }));
        Ok(Self { voices, mouths, events, is_over, threads })
    }

    /// Every node says something.
    pub(crate) fn say_all(&self, words: impl Fn(&Voice) -> Vec<u8>) -> Result<()> {
        self.voices.iter().try_for_each(|voice| say(&self.mouths, voice.node, &words(voice)))
    }

    /// Waits until something has happened to this many nodes.
    pub(crate) fn wait(&self, nodes: usize, wanted: Event, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut left = nodes;
        while left > 0 {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => left -= usize::from(event? == wanted),
                Err(RecvTimeoutError::Timeout) => bail!("{left} of {nodes} nodes still wait after {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the nodes have ended"),
            }
        }
        Ok(())
    }

    /// All nodes say that they end, and do.
    pub(crate) fn end(self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        let all = everybody();
        self.say_all(|voice| voice.say(&all, "\"Leaving\""))?;
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a node panicked"))?;
        }
        Ok(())
    }
}

impl Node {
    fn run(mut self, mut ear: Ear, events: &Sender<Result<Event>>, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let happened = ear.hear().and_then(|heard| self.hear(&heard));
            match happened {
                Ok(None) => {}
                Ok(Some(event)) => drop(events.send(Ok(event))),
                Err(_) if is_over.load(Ordering::Relaxed) => return,
                Err(error) => {
                    drop(events.send(Err(error)));
                    return;
                }
            }
        }
    }

    fn hear(&mut self, heard: &Heard) -> Result<Option<Event>> {
        if heard.from != self.server {
            return Ok(None);
        }
        if heard.is("Sessions") {
            let (list, part) = (number(heard, "list")?, number(heard, "part")?);
            self.answer(&format!(r#"{{"GotSessions":{{"list":{list},"part":{part}}}}}"#))?;
            return Ok(heard.is_last().then_some(Event::Told));
        }
        if heard.control == b"\"WantSessions\"" {
            let list = self.telling.map_or(1, |(list, _)| list + 1);
            self.telling = Some((list, 0));
            self.tell(ON_THEIR_WAY)?;
        } else if heard.is("GotSessions") {
            let Some((list, _)) = self.telling else { return Ok(None) };
            let (of, part) = (number(heard, "list")?, number(heard, "part")?);
            if of == list {
                self.tell(part + 1 + ON_THEIR_WAY)?;
                return Ok((part + 1 == self.parts()).then_some(Event::Heard));
            }
        }
        Ok(None)
    }

    /// The first and the last have no sessions.
    fn parts(&self) -> u64 {
        self.sessions.len().div_ceil(IN_ONE_PART) as u64 + 2
    }

    /// Tells parts of the list up to one.
    fn tell(&mut self, until: u64) -> Result<()> {
        let Some((list, next)) = self.telling else { return Ok(()) };
        let until = until.min(self.parts());
        for part in next..until {
            let from = usize::try_from(part)?.saturating_sub(1) * IN_ONE_PART;
            let some = self.sessions.iter().skip(from).take(if part == 0 { 0 } else { IN_ONE_PART });
            let some: Vec<_> = some.map(|client| presence(client, 1)).collect();
            self.answer(&format!(
                r#"{{"Sessions":{{"list":{list},"part":{part},"digest":{},"sessions":[{}],"last":{}}}}}"#,
                self.digest.json(),
                some.join(","),
                part + 1 == self.parts()
            ))?;
        }
        self.telling = Some((list, until.max(next)));
        Ok(())
    }

    fn answer(&self, control: &str) -> Result<()> {
        say(&self.mouths, self.voice.node, &self.voice.say(&of_node(self.server), control))
    }
}

fn number(heard: &Heard, name: &str) -> Result<u64> {
    heard.number(name).ok_or_else(|| anyhow!("a message without {name}"))
}
