//! `bench nodes`: how many nodes one node of a cluster serves.
//!
//! One real server with sessions, a private MariaDB and a private Redis, and simulated nodes (`simulated`), which are threads of
//! this process and use the protocol of nodes (`bus`). Measured is what grows with the number of nodes: sending the list of
//! sessions to all nodes at once, as after a restart of Redis; receiving their lists; and receiving begins and ends of
//! sessions.

mod bus;
mod simulated;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::server::cluster::LoneNode;
use crate::server::usage::Usage;
use bus::{Common, Digest, Ear, Mouth, Voice};
use simulated::{Crowd, Event};

/// Simulates the other nodes of a cluster, and measures one real server among them
#[derive(Debug, Args)]
pub(crate) struct NodesOptions {
    /// How many nodes are simulated; one row each
    #[arg(long, value_delimiter = ',', default_value = "50,100,200,400", value_name = "LIST")]
    nodes: Vec<usize>,

    /// How many sessions the real server has
    #[arg(long, default_value_t = 8000, value_name = "N")]
    sessions: usize,

    /// How many sessions each simulated node has
    #[arg(long, default_value_t = 2000, value_name = "N")]
    each: usize,

    /// The server under test [default: hello_server beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// Where servers keep their files while they run
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
}

/// What this machine is asked to hold at most.
const MOST_NODES: usize = 1000;
const MOST_SESSIONS: usize = 20_000;
const MOST_SESSIONS_ELSEWHERE: usize = 4_000_000;
/// What takes longer has failed.
const STEP_LIMIT: Duration = Duration::from_secs(180);
/// The number of sessions that begin and end on other nodes in the last part of a row.
const CHANGES: usize = 20_000;
const CONNECTING: usize = 32;

/// Times and CPU times of one row.
struct Row {
    nodes: usize,
    told: Part,
    heard: Part,
    resident_bytes_each: f64,
    changes: Part,
}

/// Of one part of a row.
struct Part {
    took: Duration,
    server: Duration,
    redis: Duration,
}

pub(crate) fn run(options: &NodesOptions) -> Result<()> {
    let most = options.nodes.iter().copied().max().unwrap_or_default();
    if most == 0 || most > MOST_NODES || options.nodes.contains(&0) {
        bail!("--nodes takes numbers from 1 to {MOST_NODES}");
    }
    if options.sessions > MOST_SESSIONS || most * options.each > MOST_SESSIONS_ELSEWHERE {
        bail!("at most {MOST_SESSIONS} --sessions, and {MOST_SESSIONS_ELSEWHERE} of --nodes times --each");
    }
    let server = match &options.server {
        Some(server) => server.clone(),
        None => std::env::current_exe()?.with_file_name("hello_server"),
    };
    if !server.is_file() {
        bail!("{} is not there: build it, or name it with --server", server.display());
    }
    eprintln!("starting MariaDB, Redis and the server");
    let node = LoneNode::start(&server, &options.scratch)?;
    eprintln!("connecting {} clients", options.sessions);
    let clients = connect(node.address, options.sessions)?;
    let result = options.nodes.iter().map(|nodes| measure(&node, *nodes, options.each));
    let rows: Result<Vec<_>> = result.collect();
    let rows = rows.with_context(|| format!("the server said last:\n{}", node.last_words()))?;
    drop(clients);
    let voice = Voice::new(1, &Common::of(&node, STEP_LIMIT)?);
    let [small, large] = [200, 65_536].map(|bytes| seal(&voice, bytes));
    println!("To write and seal a message takes {small:?} for 200 bytes, {large:?} for 64 KiB.\n");
    print(&rows, options);
    Ok(())
}

/// Sessions, all open.
fn connect(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let connect = |from: usize| -> Result<Vec<TcpStream>> {
        (from..count)
            .step_by(CONNECTING)
            .map(|number| session(address, &format!("client-{number}")))
            .collect()
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTING).map(|from| scope.spawn(move || connect(from))).collect();
        let mut clients = Vec::new();
        for some in all {
            let some = some.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            clients.extend(some?);
        }
        Ok(clients)
    })
}

fn session(address: SocketAddr, name: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut ask = |packet: &str, wanted: &str| -> Result<String> {
        stream.write_all(packet.as_bytes())?;
        stream.write_all(&[0])?;
        let mut received = Vec::new();
        let mut byte = [1];
        while byte != [0] {
            stream.read_exact(&mut byte)?;
            received.extend(byte);
        }
        let received = String::from_utf8(received)?;
        if !received.contains(wanted) {
            bail!("{name} was answered {received}");
        }
        Ok(received)
    };
    let auth = format!(r#"{{"auth":{{"dt":{{"client_name":"{name}"}}}}}}"#);
    let granted = ask(&auth, r#""authAck":{"st":1"#)?;
    let token = granted.split(r#""at":""#).nth(1).and_then(|rest| rest.split('"').next());
    let token = token.with_context(|| format!("{name} got no token: {granted}"))?;
    ask(&format!(r#"{{"conn":{{"at":"{token}","cl":"{name}"}}}}"#), r#""connAck":{"st":1"#)?;
    Ok(stream)
}

fn measure(node: &LoneNode, nodes: usize, each: usize) -> Result<Row> {
    eprintln!("{nodes} nodes");
    let common = Common::of(node, STEP_LIMIT)?;
    let mut ear = Ear::open(node.redis_address, &[bus::everybody()], STEP_LIMIT)?;
    let server = loop {
        let heard = ear.hear()?;
        if heard.is("Beat") {
            break heard.from;
        }
    };
    drop(ear);

    // The server does not know these yet, and they have no sessions.
    let crowd = Crowd::start(node.redis_address, server, &common, nodes, 0)?;
    let told = part(node, || {
        crowd.say_all(|voice| voice.say(&bus::of_node(server), "\"WantSessions\""))?;
        crowd.wait(nodes, Event::Told, STEP_LIMIT)
    })?;
    crowd.end()?;

    let before = node.usage()?.resident_bytes;
    let crowd = Crowd::start(node.redis_address, server, &common, nodes, each)?;
    let heard = part(node, || crowd.wait(nodes, Event::Heard, STEP_LIMIT))?;
    let after = node.usage()?.resident_bytes;
    let resident_bytes_each = after.saturating_sub(before) as f64 / (nodes * each).max(1) as f64;
    let changes = part(node, || change(node, server, nodes))?;
    crowd.end()?;
    Ok(Row { nodes, told, heard, resident_bytes_each, changes })
}

fn part(node: &LoneNode, work: impl FnOnce() -> Result<()>) -> Result<Part> {
    let (server, redis, start) = (node.usage()?, node.redis_usage()?, Instant::now());
    work()?;
    let took = start.elapsed();
    let (server_after, redis_after) = (node.usage()?, node.redis_usage()?);
    Ok(Part {
        took,
        server: Usage::cpu_between(&server, &server_after),
        redis: Usage::cpu_between(&redis, &redis_after),
    })
}

/// Sessions begin and end on a node, each with its fence, until the server has heard of all of them.
fn change(node: &LoneNode, server: u64, nodes: usize) -> Result<()> {
    let voice = Voice::new(0xffff_0000_0000_0000 + nodes as u64, &Common::of(node, STEP_LIMIT)?);
    let mut ear = Ear::open(node.redis_address, &[bus::of_node(voice.node)], STEP_LIMIT)?;
    let mut mouth = Mouth::open(node.redis_address)?;
    let all = bus::everybody();
    for number in 0..CHANGES {
        let client = format!("changing-{number}");
        let opened = format!(r#"{{"Opened":{}}}"#, simulated::presence(&client, 1));
        let closed = format!(r#"{{"Closed":{{"client":"{client}","generation":1}}}}"#);
        let mut bytes = voice.say(&all, &opened);
        bytes.extend(voice.say(&all, &format!(r#"{{"Fence":{number}}}"#)));
        bytes.extend(voice.say(&all, &closed));
        mouth.say(&bytes)?;
    }
    let hello = format!(r#"{{"Hello":{{"sessions":{},"has_database":true}}}}"#, Digest::default().json());
    mouth.say(&voice.say(&all, &hello))?;
    while ear.hear()?.from != server {}
    mouth.say(&voice.say(&all, "\"Leaving\""))
}

/// The cost of sealing a payload of this size.
fn seal(voice: &Voice, bytes: usize) -> Duration {
    let (payload, all) = ("x".repeat(bytes), bus::everybody());
    let times = u32::try_from(20_000_000 / (bytes + 1000)).unwrap_or(1);
    let start = Instant::now();
    for _ in 0..times {
        std::hint::black_box(voice.say(&all, &payload));
    }
    start.elapsed() / times
}

fn print(rows: &[Row], options: &NodesOptions) {
    println!(
        "One server with {} sessions among simulated nodes with {} each; CPU in seconds.\n",
        options.sessions, options.each
    );
    println!(
        "| nodes | all told the list | server, Redis CPU | all lists heard | server, Redis CPU | sessions a second \
         | bytes each | {CHANGES} begin and end | server, Redis CPU | a second |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let seconds = |part: &Part| format!("{:.2} s", part.took.as_secs_f64());
        let cpu = |part: &Part| format!("{:.2}, {:.2}", part.server.as_secs_f64(), part.redis.as_secs_f64());
        let rate = |count: usize, part: &Part| format!("{:.0}", count as f64 / part.took.as_secs_f64());
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.0} | {} | {} | {} |",
            row.nodes,
            seconds(&row.told),
            cpu(&row.told),
            seconds(&row.heard),
            cpu(&row.heard),
            rate(row.nodes * options.each, &row.heard),
            row.resident_bytes_each,
            seconds(&row.changes),
            cpu(&row.changes),
            rate(CHANGES, &row.changes),
        );
    }
}
