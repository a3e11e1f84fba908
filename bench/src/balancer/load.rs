//! The loads; each results in one figure.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::contestant::Contestant;
use super::watch::Watch;
use crate::server::usage::Usage;

/// A small message.
const MESSAGE: usize = 128;
const BULK_WRITE: usize = 256 * 1024;
/// A balancer that forwards nothing for this long has failed the run.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections that are not counted, so that what is allocated once is nobody's.
const FIRST: usize = 100;

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    /// Write as much as is taken. CPU seconds of the balancer per GB.
    Bulk { connections: usize },
    /// Keep this many messages on the way there and back. CPU microseconds of the balancer per message,
    /// each way counting as one.
    Echo { connections: usize, window: usize },
    /// One message there and back at a time, the connections in turn: see [`latency`].
    Latency { connections: usize },
    /// Connect, send one message, receive it back and close; this many clients in all, and this many at a time. CPU microseconds of the
    /// balancer per connection.
    Short { connections: usize, at_a_time: usize },
    /// Come all at once and say one message. Milliseconds until all have heard it back.
    Burst { connections: usize },
    /// Stay. Resident bytes of the balancer per connection.
    Idle { connections: usize },
}

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) warm_up: Duration,
    pub(super) measure: Duration,
}

impl Load {
    /// The figure of one run; `None` if there is no balancer to be measured.
    pub(super) fn run(self, contestant: &Contestant, times: Times) -> Result<Option<f64>> {
        if contestant.usage()?.is_none() {
            return Ok(None);
        }
        match self {
            Self::Bulk { connections } => {
                let (cpu, bytes) = bulk(contestant, connections, times)?;
                Ok(Some(cpu.as_secs_f64() / (bytes as f64 / 1e9)))
            }
            Self::Echo { connections, window } => {
                let (cpu, messages) = echo(contestant, connections, window, times)?;
                Ok(Some(cpu.as_secs_f64() * 1e6 / messages as f64))
            }
            Self::Latency { .. } => Ok(None), // of all at once
            Self::Short { connections, at_a_time } => {
                let come = || visits(contestant.ports.echo, connections, at_a_time);
                come()?; // what is allocated once is nobody's
                let before = contestant.usage()?;
                come()?;
                let (before, after) = before.zip(contestant.usage()?).context("there is no balancer")?;
                Ok(Some(Usage::cpu_between(&before, &after).as_secs_f64() * 1e6 / connections as f64))
            }
            Self::Burst { connections } => {
                Ok(Some(visits(contestant.ports.echo, connections, connections)?.as_secs_f64() * 1e3))
            }
            Self::Idle { connections } => idle(contestant, connections).map(Some),
        }
    }

    /// The figure with its unit.
    pub(super) fn show(self, figure: Option<f64>) -> String {
        let Some(figure) = figure else { return "–".to_owned() };
        match self {
            Self::Bulk { .. } => format!("{figure:.3} CPU s/GB"),
            Self::Echo { .. } => format!("{figure:.2} µs CPU"),
            Self::Latency { .. } => format!("p50 {figure:.1} µs"),
            Self::Short { .. } => format!("{figure:.1} µs CPU"),
            Self::Burst { .. } => format!("{figure:.0} ms"),
            Self::Idle { .. } => format!("{figure:.0} B"),
        }
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// CPU time that the balancer used while `work` was done for the time of a run, and how much was done.
fn measured(
    contestant: &Contestant,
    times: Times,
    mut work: impl FnMut(Instant) -> Result<u64>,
) -> Result<(Duration, u64)> {
    work(Instant::now() + times.warm_up)?;
    let before = contestant.usage()?;
    let done = work(Instant::now() + times.measure)?;
    let after = contestant.usage()?;
    let (before, after) = before.zip(after).context("there is no balancer")?;
    if done == 0 {
        bail!("nothing moved");
    }
    Ok((Usage::cpu_between(&before, &after), done))
}

fn bulk(contestant: &Contestant, connections: usize, times: Times) -> Result<(Duration, u64)> {
    let mut watch = Watch::new()?;
    let mut streams = Vec::new();
    for number in 0..connections {
        let stream = connect(contestant.ports.sink)?;
        stream.set_nonblocking(true)?;
        watch.add(&stream, number, EventFlags::OUT)?;
        streams.push(stream);
    }
    let block = vec![0x5a; BULK_WRITE];
    measured(contestant, times, |end| {
        let mut sent = 0;
        while Instant::now() < end {
            for number in watch.wait(Duration::from_millis(100))? {
                match streams[number].write(&block) {
                    Ok(count) => sent += count as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("writing"),
                }
            }
        }
        Ok(sent)
    })
}

fn echo(contestant: &Contestant, connections: usize, window: usize, times: Times) -> Result<(Duration, u64)> {
    let mut watch = Watch::new()?;
    let mut streams = Vec::new();
    let messages = vec![0x5a; window * MESSAGE];
    for number in 0..connections {
        let mut stream = connect(contestant.ports.echo)?;
        stream.write_all(&messages)?;
        stream.set_nonblocking(true)?;
        watch.add(&stream, number, EventFlags::IN)?;
        streams.push((stream, 0));
    }
    let mut buffer = vec![0; BULK_WRITE];
    // A quarter of the window must be free before more is sent, as in the server's suite.
    let least = (window / 4).max(1) * MESSAGE;
    measured(contestant, times, |end| {
        let (mut received, mut last) = (0, Instant::now());
        while last < end {
            let before = received;
            for number in watch.wait(Duration::from_millis(100))? {
                let (stream, owed) = &mut streams[number];
                let count = match stream.read(&mut buffer) {
                    Ok(0) => bail!("the balancer closed a connection"),
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error).context("reading"),
                };
                received += count as u64;
                *owed += count;
                if *owed >= least {
                    let again = *owed / MESSAGE * MESSAGE;
                    stream.write_all(&messages[..again])?;
                    *owed -= again;
                }
            }
            if received > before {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                bail!("messages were lost");
            }
        }
        Ok(2 * received / MESSAGE as u64)
    })
}

/// Messages go through the contestants in turn, one by one, so that all have the same machine. Medians in
/// microseconds, in the order of the contestants.
pub(super) fn latency<const N: usize>(
    contestants: &[Contestant; N],
    connections: usize,
    times: Times,
) -> Result<[f64; N]> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        for contestant in contestants {
            streams.push(connect(contestant.ports.echo)?);
        }
    }
    let mut nanos = [(); N].map(|()| Vec::new());
    for length in [times.warm_up, times.measure * u32::try_from(N)?] {
        nanos.iter_mut().for_each(Vec::clear);
        let end = Instant::now() + length;
        for number in (0..streams.len()).cycle() {
            let start = Instant::now();
            if start >= end {
                break;
            }
            round_trip(&mut streams[number])?;
            nanos[number % N].push(start.elapsed().as_nanos() as u64);
        }
    }
    Ok(nanos.map(|mut nanos| {
        let middle = nanos.len() / 2;
        *nanos.select_nth_unstable(middle).1 as f64 / 1e3
    }))
}

fn round_trip(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[0x5a; MESSAGE]).context("writing")?;
    stream.read_exact(&mut [0; MESSAGE]).context("reading")?;
    Ok(())
}

/// This many clients in all, and this many at a time, each of which connects, sends one message, and closes when it has
/// heard it back. How long that takes.
fn visits(address: SocketAddr, count: usize, at_a_time: usize) -> Result<Duration> {
    let mut watch = Watch::new()?;
    let mut clients: Vec<Option<(TcpStream, usize)>> = Vec::new();
    let (start, mut begun, mut done) = (Instant::now(), 0, 0);
    let begin = |watch: &Watch, place: usize, clients: &mut Vec<Option<(TcpStream, usize)>>| -> Result<()> {
        let stream = begin_connecting(address)?;
        // What has not been said yet is said when there is room, which is when the connection is made.
        watch.add(&stream, place, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
        clients[place] = Some((stream, 0));
        Ok(())
    };
    clients.resize_with(at_a_time.min(count), || None);
    while begun < clients.len() {
        begin(&watch, begun, &mut clients)?;
        begun += 1;
    }
    let mut buffer = [0; MESSAGE];
    let mut last = Instant::now();
    while done < count {
        let ready: Vec<_> = watch.wait(Duration::from_millis(100))?.collect();
        for place in ready {
            let Some((stream, heard)) = &mut clients[place] else { continue };
            if *heard == 0 {
                match stream.write(&[0x5a; MESSAGE]) {
                    Ok(_) => *heard = 1,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    }
                    Err(error) => return Err(error).context("connecting"),
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) => bail!("the balancer closed a connection"),
                Ok(count) => *heard += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                Err(error) => return Err(error).context("reading"),
            }
            if *heard > MESSAGE {
                clients[place] = None;
                (done, last) = (done + 1, Instant::now());
                if begun < count {
                    begin(&watch, place, &mut clients)?;
                    begun += 1;
                }
            }
        }
        if last.elapsed() > PATIENCE {
            bail!("{} of {count} clients were not served", count - done);
        }
    }
    Ok(start.elapsed())
}

/// A socket that is connecting, or has connected.
fn begin_connecting(address: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
            Err(error).context("connecting")
        }
        _ => Ok(socket.into()),
    }
}

fn idle(contestant: &Contestant, connections: usize) -> Result<f64> {
    let mut streams = Vec::with_capacity(connections);
    let mut first = 0;
    for number in 0..connections {
        if number == FIRST {
            first = settled_memory(contestant)?;
        }
        let mut stream = connect(contestant.ports.echo)?;
        round_trip(&mut stream)?; // the balancer has found it a backend
        streams.push(stream);
    }
    let all = settled_memory(contestant)?;
    Ok(all.saturating_sub(first) as f64 / (connections - FIRST) as f64)
}

/// Resident bytes when they have stopped changing.
fn settled_memory(contestant: &Contestant) -> Result<u64> {
    let mut last = 0;
    for _ in 0..20 {
        let now = contestant.usage()?.context("there is no balancer")?.resident_bytes;
        if now == last {
            break;
        }
        last = now;
        sleep(Duration::from_millis(250));
    }
    Ok(last)
}
