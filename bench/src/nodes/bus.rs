//! The control messages of nodes on the bus, encoded by hand. The format is that of `jmqt-server/src/bus`, but none of its code is
//! used, so that the server under test can be any program.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ring::hmac;

use crate::server::cluster::LoneNode;

/// `REDIS_PREFIX` at its default.
const PREFIX: &str = "jmqt:";
const CONTROL: u8 = 2;
const SEAL_BYTES: usize = 16;
const HEADER_BYTES: usize = 14;

/// What the nodes of a cluster have in common.
#[derive(Clone)]
pub(crate) struct Common {
    /// The format of the messages. Control messages, the only ones that are simulated, change little between versions.
    version: u8,
    epoch: u32,
    key: [u8; 32],
}

impl Common {
    /// Reads the database of this node's cluster, and the format from a message of the node.
    pub(crate) fn of(node: &LoneNode, patience: Duration) -> Result<Self> {
        let text = node.meta()?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
            line.with_context(|| format!("the database has no {name}"))
        };
        let mut key = Vec::with_capacity(32);
        for part in 0..4 {
            key.extend(value(&format!("bus_key_{part}"))?.parse::<i64>()?.to_be_bytes());
        }
        let key = key.try_into().map_err(|_| anyhow!("the key has another length"))?;
        let version = Ear::open(node.redis_address, &[everybody()], patience)?.hear()?.version;
        Ok(Self { version, epoch: value("epoch")?.parse()?, key })
    }
}

/// A simulated node.
#[derive(Clone)]
pub(crate) struct Voice {
    pub(crate) node: u64,
    version: u8,
    epoch: u32,
    seal: hmac::Key,
}

/// Of a node's sessions: see `Digest` in the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    pub(crate) hash: u64,
}

impl Digest {
    pub(crate) fn add(&mut self, client: &str, generation: u64) {
        let of_client = client.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut hash = of_client ^ generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.hash = self.hash.wrapping_add(hash ^ (hash >> 31));
        self.count += 1;
    }

    pub(crate) fn json(self) -> String {
        format!(r#"{{"count":{},"hash":{}}}"#, self.count, self.hash)
    }
}

pub(crate) fn everybody() -> String {
    format!("{PREFIX}all")
}

pub(crate) fn of_node(node: u64) -> String {
    format!("{PREFIX}n:{node:016x}")
}

impl Voice {
    pub(crate) fn new(node: u64, common: &Common) -> Self {
        let seal = hmac::Key::new(hmac::HMAC_SHA256, &common.key);
        Self { node, version: common.version, epoch: common.epoch, seal }
    }

    /// The PUBLISH of a control message.
    pub(crate) fn say(&self, channel: &str, control: &str) -> Vec<u8> {
        let mut payload = Vec::with_capacity(HEADER_BYTES + control.len() + SEAL_BYTES);
        payload.extend([self.version, CONTROL]);
        payload.extend(self.node.to_be_bytes());
        payload.extend(self.epoch.to_be_bytes());
        payload.extend(control.as_bytes());
        let mut context = hmac::Context::with_key(&self.seal);
        context.update(&(channel.len() as u64).to_be_bytes());
        context.update(channel.as_bytes());
        context.update(&payload);
        payload.extend(&context.sign().as_ref()[..SEAL_BYTES]);
        let head =
            format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), payload.len());
        let mut bytes = head.into_bytes();
        bytes.extend(payload);
        bytes.extend(b"\r\n");
        bytes
    }

    pub(crate) fn beat(&self, sessions: Digest) -> Vec<u8> {
        let control = format!(r#"{{"Beat":{{"sessions":{},"has_database":true}}}}"#, sessions.json());
        self.say(&everybody(), &control)
    }
}

/// What was heard: the format, who said it, and the JSON.
pub(crate) struct Heard {
    version: u8,
    pub(crate) from: u64,
    pub(crate) control: Vec<u8>,
}

impl Heard {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.control.starts_with(format!("{{\"{name}\"").as_bytes())
    }

    /// The first number behind `"name":`.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let key = format!("\"{name}\":");
        // Numbers are at the beginning; the rest may be long.
        let start = &self.control[..self.control.len().min(200)];
        let at = memchr::memmem::find(start, key.as_bytes())? + key.len();
        let digits = start[at..].iter().take_while(|byte| byte.is_ascii_digit());
        digits
            .map(|byte| u64::from(byte - b'0'))
            .try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(digit))
    }

    pub(crate) fn is_last(&self) -> bool {
        self.control.ends_with(br#""last":true}}"#)
    }
}

/// A connection that is subscribed to channels.
pub(crate) struct Ear {
    stream: BufReader<TcpStream>,
}

impl Ear {
    pub(crate) fn open(redis: SocketAddr, channels: &[String], patience: Duration) -> Result<Self> {
        let mut stream = TcpStream::connect(redis)?;
        stream.set_read_timeout(Some(patience))?;
        let mut command = format!("*{}\r\n$9\r\nSUBSCRIBE\r\n", channels.len() + 1);
        for channel in channels {
            command.push_str(&format!("${}\r\n{channel}\r\n", channel.len()));
        }
        stream.write_all(command.as_bytes())?;
        let mut ear = Self { stream: BufReader::with_capacity(16 << 10, stream) };
        for _ in channels {
            ear.read_value()?;
        }
        Ok(ear)
    }

    /// The next control message.
    ///
    /// # Errors
    /// The connection has ended, or nothing came for too long.
    pub(crate) fn hear(&mut self) -> Result<Heard> {
        loop {
            let Some(mut payload) = self.read_value()? else { continue };
            if payload.len() < HEADER_BYTES + SEAL_BYTES || payload[1] != CONTROL {
                continue;
            }
            payload.truncate(payload.len() - SEAL_BYTES);
            let from = payload[2..10].try_into().map(u64::from_be_bytes)?;
            let version = payload[0];
            return Ok(Heard { version, from, control: payload.split_off(HEADER_BYTES) });
        }
    }

    /// One `message`, or `None` for another reply.
    fn read_value(&mut self) -> Result<Option<Vec<u8>>> {
        let head = self.line()?;
        let Some(count) = head.strip_prefix('*') else { bail!("Redis says {head}") };
        let (mut is_message, mut last) = (false, None);
        for part in 0..count.parse::<usize>()? {
            let line = self.line()?;
            let Some(length) = line.strip_prefix('$') else { continue }; // a number
            let mut bytes = vec![0; length.parse::<usize>()? + 2];
            self.stream.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            is_message |= part == 0 && bytes == b"message";
            last = Some(bytes);
        }
        Ok(last.filter(|_| is_message))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).context("Redis hung up, or nothing came")?;
            match byte[0] {
                b'\n' => break,
                b'\r' => {}
                byte => line.push(byte),
            }
        }
        Ok(String::from_utf8(line)?)
    }
}

/// A connection that publishes, and reads the answers away.
pub(crate) struct Mouth {
    stream: TcpStream,
}

impl Mouth {
    pub(crate) fn open(redis: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(redis)?;
        stream.set_nodelay(true)?;
        let mut answers = stream.try_clone()?;
        // It ends with the connection.
        std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let mut buffer = [0; 4096];
            while matches!(answers.read(&mut buffer), Ok(1..)) {}
        })?;
        Ok(Self { stream })
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }
}

impl Drop for Mouth {
    fn drop(&mut self) {
        drop(self.stream.shutdown(std::net::Shutdown::Both)); // the thread that reads has a copy
    }
}
