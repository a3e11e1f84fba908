//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Speaks to a JMQT server: publishes, subscribes, asks, measures, and finds out why it cannot.
#[derive(Debug, Parser)]
#[command(name = "jmqt", version, about, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed: standard error says why
  2  wrong usage
  3  there is no connection, or it was lost
  4  the server refused: standard error names the status
  5  --timeout was over

Settings come from --config FILE, then from the environment (JMQT_CLIENT_ and a key of client.conf, such as
JMQT_CLIENT_URL), then from these options.";

const SUB_EXAMPLES: &str = "\
Examples:
  jmqt sub news -H                          who published what, where
  jmqt sub news weather -n 10 --json        ten messages, for programs
  jmqt sub orders -p --name warehouse       nothing is missed between two runs
  jmqt sub '#me' --name carol               what is sent to carol alone
  jmqt sub news --format '%t %p: %d'

A client does not get its own messages. A QoS 1 message is acknowledged when it has been printed; messages of channels
that were not asked for stay with the server.";

const PUB_EXAMPLES: &str = "\
Examples:
  jmqt pub news '{\"headline\":\"rain\"}' -q 1     acknowledged: on disk for every persistent subscriber
  jmqt pub weather sunny -r                     text is sent as a JSON string, and kept for later subscribers
  tail -f app.log | jmqt pub log -l             a message per line
  jmqt pub tick 1 --repeat 60 --interval 1      once a second for a minute";

const REQUEST_EXAMPLES: &str = "\
Example:
  jmqt request '$mySubscriptions'               in quotes, or without the $: a shell would take it for a variable";

const CONNECTION: &str = "Connection";

#[derive(Debug, Args)]
#[command(next_help_heading = CONNECTION)]
pub(crate) struct ConnectionArguments {
    /// A client.conf; without one, the defaults and the environment
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The server: jmqt://host:8010, jmqts://host:8011, ws://host:8012/ or wss://host:8013/
    #[arg(long, short, global = true)]
    pub(crate) url: Option<String>,
    /// What to authenticate with, as JSON [default: {"client_name":"jmqt-…"}]
    #[arg(long, global = true, value_name = "JSON")]
    pub(crate) auth: Option<String>,
    /// Authenticate as {"client_name": NAME}
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "auth")]
    pub(crate) name: Option<String>,
    /// A token that is known already (better: JMQT_CLIENT_TOKEN)
    #[arg(long, global = true, requires = "client_id")]
    pub(crate) token: Option<String>,
    /// Whose token it is
    #[arg(long, global = true, value_name = "CLIENT", requires = "token")]
    pub(crate) client_id: Option<String>,
    /// The certificate authorities to trust, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The name the server's certificate is made for
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Output for programs: one JSON object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up after so many seconds
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Show what happens, on standard error
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Subscribe to channels and print what comes
    #[command(after_help = SUB_EXAMPLES)]
    Sub {
        /// Which channels; #me is what is sent to this client alone
        #[arg(required = true)]
        channels: Vec<String>,
        /// The subscription survives: what is published with QoS 1 in the meantime comes the next time
        #[arg(long, short)]
        persistent: bool,
        /// Stop after so many messages
        #[arg(short = 'n', long, value_name = "N")]
        count: Option<u64>,
        /// Show channel, publisher, QoS and retained flag before each message
        #[arg(long, short = 'H')]
        headers: bool,
        /// Show the time of arrival before each message
        #[arg(long, short)]
        time: bool,
        /// What to print for each message: %c channel, %p publisher, %d data, %q QoS, %r retained flag, %i id,
        /// %t time, %% a percent sign
        #[arg(long, value_name = "FORMAT", conflicts_with_all = ["headers", "time", "json"])]
        format: Option<String>,
    },
    /// End subscriptions, also persistent ones of earlier runs
    #[command(after_help = "Example:\n  jmqt unsub bills --name carol")]
    Unsub {
        /// Which channels
        #[arg(required = true)]
        channels: Vec<String>,
    },
    /// Publish messages
    #[command(after_help = PUB_EXAMPLES)]
    Pub {
        /// Where to
        channel: String,
        #[command(flatten)]
        input: Input,
    },
    /// Send messages to one client
    P2p {
        /// The client's id
        client: String,
        #[command(flatten)]
        input: Input,
    },
    /// Ask the server's application something on a control channel, and print the reply
    #[command(after_help = REQUEST_EXAMPLES)]
    Request {
        /// The channel; the $ may be left out
        channel: String,
        /// What is asked, as JSON
        data: Option<String>,
    },
    /// Measure round trips: a message with QoS 0 from one session to another
    Ping {
        /// How many
        #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
        count: u64,
        /// The pause in between, in milliseconds
        #[arg(long, default_value_t = 200, value_name = "MS")]
        interval: u64,
    },
    /// Publish as fast as possible from one session to another, and measure
    Bench {
        /// For how many seconds
        #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// How large the data of a message is, in bytes
        #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(40..=1_000_000))]
        size: u32,
        /// 0, or 1 for stored and acknowledged messages
        #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
        qos: u8,
        /// Messages per second at most; 0: no limit
        #[arg(long, default_value_t = 0, value_name = "N")]
        rate: u64,
        /// Messages that may be on their way at a time, so that none is dropped; 0: any number
        #[arg(long, default_value_t = 1000, value_name = "N")]
        window: u64,
        /// The channel [default: one of its own]
        #[arg(long)]
        channel: Option<String>,
    },
    /// Find out why there is no connection: every step, with its time
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print a manual page
    Man {
        /// That of this command, such as sub; without one, that of jmqt
        command: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct Input {
    /// The message: JSON, or any other text, which is sent as a JSON string. Text that begins like JSON and is none is
    /// refused, unless --text says that it is meant
    #[arg(required_unless_present_any = ["lines", "file", "stdin"])]
    pub(crate) message: Option<String>,
    /// A message per line of standard input; empty lines are passed over
    #[arg(short, long, conflicts_with_all = ["message", "file", "stdin"])]
    pub(crate) lines: bool,
    /// The message is in this file
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["message", "stdin"])]
    pub(crate) file: Option<PathBuf>,
    /// The message is standard input, all of it
    #[arg(short, long, conflicts_with = "message")]
    pub(crate) stdin: bool,
    /// Send the message as a JSON string, whatever it looks like
    #[arg(long)]
    pub(crate) text: bool,
    /// Publish it this many times
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "lines")]
    pub(crate) repeat: u64,
    /// Seconds between two messages
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) interval: Option<Duration>,
    /// Keep it for those who subscribe later
    #[arg(short, long)]
    pub(crate) retained: bool,
    /// 0, or 1: stored, and acknowledged before this command ends
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) qos: u8,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds was expected".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("more than 0 seconds were expected".to_owned()),
    }
}
