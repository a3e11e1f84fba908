//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jmqt_client::mqtt::Codec;
use jmqt_client::{Header, TlsConfig};

use crate::admin::AdminArguments;

/// Speaks to a JMQT or MQTT server: publishes, subscribes, asks, measures, and finds out why it cannot.
#[derive(Debug, Parser)]
#[command(name = "jmqt", version, after_help = EXIT_CODES)]
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
  2  wrong usage, or lines of pub -l that are no messages
  3  there is no connection, or it was lost
  4  the server refused: standard error names the status
  5  --timeout was over

Settings come from --config FILE or --profile NAME, then from the environment (JMQT_CLIENT_ and a key of client.conf, such
as JMQT_CLIENT_URL), then from these options.

Examples:
  jmqt sub news -H &                    what is published on news, and by whom
  jmqt pub news '{\"rain\":true}' -q 1
  jmqt request mySubscriptions          ask the server's application
  jmqt sub 'rooms/#' -H --url mqtt://localhost
  jmqt doctor --url wss://example.com   why is there no connection?
  jmqt help pub                         more of one command";

const SUB_EXAMPLES: &str = "\
Examples:
  jmqt sub news -H                          who published what, where
  jmqt sub news weather -n 10 --json        ten messages, for programs
  jmqt sub orders -p --name warehouse       nothing is missed between two runs
  jmqt sub '#me' --name carol               what is sent to carol alone
  jmqt sub news --format '%t %p: %d'
  jmqt sub --filter 'rooms/+/temperature' -H  all channels that a filter matches, if the application allows it
  jmqt sub 'rooms/#' -v --codec json --url mqtt://localhost

A QoS 1 message is acknowledged when it has been printed. From a JMQT server a client does not get its own messages, and
messages of channels that were not asked for stay with the server.";

const PUB_EXAMPLES: &str = "\
Examples:
  jmqt pub news '{\"headline\":\"rain\"}' -q 1     acknowledged: on disk for every persistent subscriber
  jmqt pub weather sunny -r                     text is sent as a JSON string, and kept for later subscribers
  tail -f app.log | jmqt pub log -l --text      a message per line, each sent as a string
  jmqt pub tick '{\"n\":{number},\"at\":\"{time}\"}' --template --count 60 --interval 1
  jmqt pub weather --clear                      no retained message that tells anything
  jmqt pub jobs '{\"sum\":[1,2]}' --wait-reply 5   and print what a client answers to this one
  jmqt pub lamp true --codec bool -r --url mqtt://localhost   the word on, kept by the MQTT server
  jmqt pub state -f state.json --codec cbor --url mqtt://localhost

Placeholders of --template: {number} the message's number, {time} the time (RFC 3339, UTC), {ms} milliseconds since
1970, {random} 16 random hexadecimal digits. In JSON put {time} and {random} in quotes: '{\"id\":\"{random}\"}'.

A message that the server refuses is told, and makes the exit code 4, with either QoS. With -l the others are published; a
line that begins like JSON and is not JSON, such as [INFO] started, is reported with its number, and makes the exit code 2.";

const P2P_EXAMPLES: &str = "\
Examples:
  jmqt p2p alice hello                  to the client alice, if she is connected
  jmqt p2p alice '{\"n\":1}' -q 1         also if she is away, provided that she has a persistent subscription to #alice
  jmqt p2p worker '[1,2]' --wait-reply 5";

const REPLY_EXAMPLES: &str = "\
Examples:
  jmqt reply ping pong                                  \"pong\" to clients that publish on ping
  jmqt reply '#me' --name echo --template '{data}'      what is sent to echo comes back
  jmqt reply jobs --command 'jq .sum|add'               the data is the command's input, the answer its output
  jmqt pub ping hello --wait-reply 5                    asks

Placeholders of --template: those of jmqt pub, and {data}, {channel}, {publisher} of the message that is answered. A
command has JMQT_CHANNEL and JMQT_PUBLISHER in its environment, and 30 seconds; if it fails there is no answer.

Of two clients that answer each other's every message none ever stops.";

const PING_EXAMPLES: &str = "\
Example:
  jmqt ping -n 100 --interval 10        a hundred round trips, their least, median and most";

const BENCH_EXAMPLES: &str = "\
Examples:
  jmqt bench                                      one publisher, one subscriber, QoS 0
  jmqt bench -q 1 --window 100                    stored and acknowledged
  jmqt bench --clients 50 --rate 1000             50 publish 1,000 messages a second together, 50 receive each of them
  jmqt bench --publishers 1 --subscribers 1000    fan-out
  jmqt bench -q 2 --messages 10000 --url mqtt://localhost

All publish on one channel, and every subscriber gets every message. The first client is who the options say, the
others authenticate as {\"client_name\": \"jmqt-…\"}; with an MQTT server they have client ids of their own and the same user name.
It stops after --seconds or --messages. Open files (ulimit -n) limit how many there can be.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  jmqt doctor --url wss://example.com/jmqt
  jmqt doctor --url mqtts://lamp:secret@example.com

With an MQTT server, messages of every QoS are published to the doctor itself, a retained message is received on another
connection and removed, and its expiry shows whether the clocks of the server's nodes agree. Each line begins with OK,
WARN or FAIL. The exit code is 0 if nothing failed, 3 or 4 if there is no session, and 1 if a later step failed. With --name
the doctor takes over the connection and the session of that client.";

const ADMIN_EXAMPLES: &str = "\
Examples:
  jmqt admin ready                             is everything well, and what is in the way
  jmqt admin connections --begins sensor-      who is connected
  jmqt admin connection alice                  everything about one client
  jmqt admin slow                              who leaves most unread
  jmqt admin publish news '{\"rain\":true}' -q 1
  jmqt admin retained set lamp on --text
  jmqt admin pending alice --purge
  ssh -L 9090:127.0.0.1:9090 server &          the listener of another machine

The key comes from --key-file FILE or from the environment variable JMQT_ADMIN_KEY, never from an argument, which others on
this machine could see. `jmqtd admin-key` makes one.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(jmqt completions bash)
  jmqt completions zsh > ~/.zfunc/_jmqt
  jmqt completions fish > ~/.config/fish/completions/jmqt.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  jmqt man sub | man -l -
  jmqt man --directory ~/.local/share/man/man1     jmqt.1, jmqt-sub.1 and so on";

const PROFILE_EXAMPLES: &str = "\
Examples:
  jmqt profile save home --url jmqt://localhost --name alice
  jmqt profile save work --url wss://example.com --client-id alice --token-file ~/.jmqt-token
  jmqt sub news --profile work
  export JMQT_PROFILE=work

A profile is a client.conf, NAME.conf in $XDG_CONFIG_HOME/jmqt or ~/.config/jmqt (Windows: %APPDATA%\\jmqt), and may have
any of its keys.";

const REQUEST_EXAMPLES: &str = "\
Example:
  jmqt request '$mySubscriptions'               in quotes, or without the $: a shell would take it for a variable
  jmqt request '$online' --url mqtt://localhost   asks the application of a JMQT server, at its MQTT port, also with --v3";

const CONNECTION: &str = "Connection";
const TLS: &str = "TLS";
const MQTT: &str = "With an MQTT server";
const OUTPUT: &str = "Output";

#[derive(Debug, Args)]
#[command(next_help_heading = CONNECTION)]
pub(crate) struct ConnectionArguments {
    /// A client.conf; without one, the defaults and the environment
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The server and the client of this name, which `jmqt profile save` wrote [env: JMQT_PROFILE]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "config")]
    pub(crate) profile: Option<String>,
    /// The server: jmqt://host:8010, jmqts://host:8011, ws://host:8012/ or wss://host:8013/; one of MQTT: mqtt://host:1883,
    /// mqtts://host:8883, mqtt+ws://host:8083/mqtt or mqtt+wss://host:8084/mqtt, each with user:password@ before the host
    /// [default: jmqt://localhost:8010]
    #[arg(long, short, global = true)]
    pub(crate) url: Option<String>,
    /// With an MQTT server: speak MQTT 3.1.1 instead of 5
    #[arg(long, global = true)]
    pub(crate) v3: bool,
    /// The server at ws:// or wss:// speaks MQTT
    #[arg(long, global = true)]
    pub(crate) mqtt: bool,
    /// A header of the request that opens a WebSocket, such as 'Cookie: session=1'; may be given several times
    #[arg(long = "header", global = true, value_name = "HEADER")]
    pub(crate) websocket_headers: Vec<Header>,
    /// What to authenticate with, as JSON; an MQTT server has user name and password in the URL instead [default: {"client_name":"jmqt-…"}]
    #[arg(long, global = true, value_name = "JSON")]
    pub(crate) auth: Option<String>,
    /// Authenticate as {"client_name": NAME}; with an MQTT server the client id
    #[arg(long, visible_alias = "id", global = true, value_name = "NAME", conflicts_with = "auth")]
    pub(crate) name: Option<String>,
    /// A token that is known already (better: --token-file or JMQT_CLIENT_TOKEN)
    #[arg(long, global = true, requires = "client_id")]
    pub(crate) token: Option<String>,
    /// A file with the token, which is read for each connection
    #[arg(long, global = true, value_name = "FILE", requires = "client_id", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// The client that the token belongs to; with an MQTT server as --name
    #[arg(long, global = true, value_name = "CLIENT")]
    pub(crate) client_id: Option<String>,
    /// Give up after this time
    #[arg(long, short = 'W', global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// The certificate authorities to trust, PEM
    #[arg(long, alias = "cafile", global = true, value_name = "FILE", help_heading = TLS)]
    pub(crate) ca: Option<PathBuf>,
    /// A client certificate, PEM, for servers that ask for one
    #[arg(long, global = true, value_name = "FILE", requires = "key", help_heading = TLS)]
    pub(crate) cert: Option<PathBuf>,
    /// The client certificate's private key, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "cert", help_heading = TLS)]
    pub(crate) key: Option<PathBuf>,
    /// The name the server's certificate is made for
    #[arg(long, global = true, value_name = "NAME", help_heading = TLS)]
    pub(crate) server_name: Option<String>,
    /// Do not check the server's certificate: anybody on the way can read and change everything, tokens included
    #[arg(long, global = true, conflicts_with = "ca", help_heading = TLS)]
    pub(crate) insecure: bool,
    /// Output for programs: one JSON object per line
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Show every packet on standard error, but for tokens and auth data; not with an MQTT server
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) trace: bool,
    /// Show what happens, on standard error; `sub` with an MQTT server: as --headers
    #[arg(long, short, global = true, help_heading = OUTPUT)]
    pub(crate) verbose: bool,
}

impl ConnectionArguments {
    /// Puts in what the options say.
    pub(crate) fn set_tls(&self, tls: &mut TlsConfig) {
        for (setting, option) in
            [(&mut tls.ca_path, &self.ca), (&mut tls.cert_path, &self.cert), (&mut tls.key_path, &self.key)]
        {
            if option.is_some() {
                setting.clone_from(option);
            }
        }
        if self.server_name.is_some() {
            tls.server_name.clone_from(&self.server_name);
        }
        tls.accept_any_certificate |= self.insecure;
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Subscribe to channels and print what comes
    #[command(after_help = SUB_EXAMPLES)]
    Sub {
        /// Which channels, or filters of an MQTT server; #me is what is sent to this client alone
        #[arg(required_unless_present = "filters")]
        channels: Vec<String>,
        /// All channels that this filter matches: the level + stands for one level, the last level # for any number of levels.
        /// With an MQTT server, filters may be among the channels
        #[arg(long = "filter", short, value_name = "FILTER")]
        filters: Vec<String>,
        /// The subscription survives: what is published with QoS 1 in the meantime comes the next time
        #[arg(long, short)]
        persistent: bool,
        /// Stop after this many messages
        #[arg(short = 'n', short_alias = 'C', long, value_name = "N")]
        count: Option<u64>,
        /// Show channel, publisher, QoS and retained flag before each message
        #[arg(long, short = 'H', help_heading = OUTPUT)]
        headers: bool,
        /// Show the time of arrival before each message
        #[arg(long, short, help_heading = OUTPUT)]
        time: bool,
        /// What to print for each message: %c channel, %p publisher, %d data, %q QoS, %r retained flag, %i id,
        /// %t time, %% a percent sign. With an MQTT server there is no id, and a publisher only of what is sent to one client
        #[arg(long, value_name = "FORMAT", conflicts_with_all = ["headers", "time", "json"], help_heading = OUTPUT)]
        format: Option<String>,
        #[command(flatten)]
        mqtt: Box<SubMqtt>,
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
        #[command(flatten)]
        mqtt: PubMqtt,
    },
    /// Send messages to one client
    #[command(after_help = P2P_EXAMPLES)]
    P2p {
        /// The client's id
        client: String,
        #[command(flatten)]
        input: Input,
        #[command(flatten)]
        mqtt: PubMqtt,
    },
    /// Ask the server's application something on a control channel, and print the reply
    #[command(after_help = REQUEST_EXAMPLES)]
    Request {
        /// The channel: of a JMQT server with or without its $; of an MQTT server any topic, and with the $ for the
        /// application of a JMQT server
        channel: String,
        /// What is asked: JSON; for an MQTT server any text
        data: Option<String>,
        #[command(flatten)]
        mqtt: RequestMqtt,
    },
    /// Answer every message of a channel, each with a message to its publisher alone
    #[command(after_help = REPLY_EXAMPLES)]
    Reply {
        /// The channel; #me is what is sent to this client alone
        channel: String,
        /// The answer: JSON, or any other text, which is sent as a JSON string
        #[arg(required_unless_present = "command")]
        answer: Option<String>,
        /// The answer is what this shell command prints; the message's data is its input
        #[arg(long, value_name = "COMMAND", conflicts_with_all = ["answer", "template"])]
        command: Option<String>,
        /// Replace placeholders in the answer, such as {data}
        #[arg(long)]
        template: bool,
        /// Send the answer as a JSON string, even if it looks like JSON
        #[arg(long)]
        text: bool,
        /// QoS of the answers: 0, or 1 for stored ones
        #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
        qos: u8,
        /// Stop after this many answers
        #[arg(short = 'n', long, value_name = "N")]
        count: Option<u64>,
    },
    /// Measure round trips: a message with QoS 0 from one session to another
    #[command(after_help = PING_EXAMPLES)]
    Ping {
        /// How many
        #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
        count: u64,
        /// The pause in between, in milliseconds
        #[arg(long, default_value_t = 200, value_name = "MS")]
        interval: u64,
    },
    /// Publish as fast as possible from one client to another, or among many, and measure
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArguments),
    /// Find out why there is no connection: every step, with its time
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor {
        /// The topic below which messages are published and received [default: jmqt-doctor]
        #[arg(long, value_name = "TOPIC", help_heading = MQTT)]
        topic: Option<String>,
    },
    /// Keep servers, and who we are there, under names for --profile
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile {
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Ask the listener for operators of a server (ADMIN_ADDRESS): metrics, connections, messages
    #[command(after_help = ADMIN_EXAMPLES)]
    Admin(Box<AdminArguments>),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print a manual page
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// That of this command, such as sub; without one, that of jmqt
        command: Option<String>,
        /// Write the pages of all commands into this folder
        #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// For how many seconds
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How large the data of a message is, in bytes
    #[arg(long, default_value_t = 128, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(40..=1_000_000))]
    pub(crate) size: u32,
    /// Stop after this many messages of all publishers together
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// 0, or 1 for stored and acknowledged messages; 2 with an MQTT server only
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Messages per second at most, of all publishers together; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) rate: u64,
    /// Messages that may be on their way to a subscriber at a time, so that none is dropped; 0: any number
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) window: u64,
    /// The channel [default: one of its own]
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// This many publishers, and as many subscribers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// This many publishers [default: --clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) publishers: Option<u32>,
    /// This many subscribers [default: --clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) subscribers: Option<u32>,
    /// Connections that are begun per second
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) ramp: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Print the names and servers of all profiles
    List,
    /// Keep the connection options of this call, such as --url and --name, under a name
    Save {
        /// The name
        profile: String,
        /// Replace the profile of this name
        #[arg(long)]
        force: bool,
    },
    /// Delete a profile
    Remove {
        /// Its name
        profile: String,
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
    /// The message: JSON, or any other text, which is sent as a JSON string. Text that begins like JSON and is not JSON is
    /// refused, unless --text says that it is meant. To an MQTT server it is sent as it is, or by --codec
    #[arg(required_unless_present_any = ["lines", "file", "stdin", "clear", "empty", "given"])]
    pub(crate) message: Option<String>,
    /// The message, as an option
    #[arg(short = 'm', long = "message", value_name = "MESSAGE", id = "given", conflicts_with_all = ["message", "lines", "file", "stdin", "clear"])]
    pub(crate) option: Option<String>,
    /// A message per line of standard input; empty lines are passed over
    #[arg(short, long, conflicts_with_all = ["message", "file", "stdin"])]
    pub(crate) lines: bool,
    /// The message is in this file
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["message", "stdin"])]
    pub(crate) file: Option<PathBuf>,
    /// The message is standard input, all of it
    #[arg(short, long, conflicts_with = "message")]
    pub(crate) stdin: bool,
    /// Send the message as a JSON string, even if it looks like JSON; not with an MQTT server
    #[arg(long)]
    pub(crate) text: bool,
    /// Replace placeholders in the message, such as {number}
    #[arg(long)]
    pub(crate) template: bool,
    /// Publish it this many times
    #[arg(short = 'n', long, alias = "repeat", value_name = "N", default_value_t = 1, conflicts_with = "lines", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Seconds between two messages
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) interval: Option<Duration>,
    /// The server keeps it for those who subscribe later
    #[arg(short, long, alias = "retain", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    pub(crate) retained: Option<bool>,
    /// Replace the channel's retained message by null. JMQT has no message that removes it; the server's application can. With
    /// an MQTT server: remove it
    #[arg(long, conflicts_with_all = ["message", "lines", "file", "stdin", "retained", "text", "template", "count"])]
    pub(crate) clear: bool,
    /// Then print the first message that is sent to this client alone, for which to wait this long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with_all = ["lines", "clear"])]
    pub(crate) wait_reply: Option<Duration>,
    /// 0, or 1: stored, and acknowledged before this command ends; 2 with an MQTT server only [default: 0]
    #[arg(short, long, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: Option<u8>,
}

impl Input {
    /// The message, if it is text on the command line.
    pub(crate) const fn given(&self) -> Option<&String> {
        match &self.message {
            Some(message) => Some(message),
            None => self.option.as_ref(),
        }
    }
}

/// How payloads are written.
const CODEC: &str = "utf8, json, msgpack, cbor (both from and to JSON), binary, bool (true and false as the words on and off), or bool:ON,OFF with \
     other words [default: the payload as it is, or as client.conf says for the topic]";

/// What only `jmqt request` with an MQTT server has.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = MQTT)]
pub(crate) struct RequestMqtt {
    /// The topic for the reply, with MQTT 5 [default: reply/ and the client id]
    #[arg(long, value_name = "TOPIC")]
    pub(crate) response_topic: Option<String>,
    #[arg(long, value_name = "CODEC", help = CODEC)]
    pub(crate) codec: Option<Codec>,
}

/// What only `jmqt sub` with an MQTT server has.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = MQTT)]
pub(crate) struct SubMqtt {
    /// With --persistent: end the session that the server has of this client id, and begin a new one
    #[arg(long, requires = "persistent")]
    pub(crate) clean: bool,
    /// With --persistent: how long the server keeps the session without a connection [default: for ever]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "persistent")]
    pub(crate) expiry: Option<Duration>,
    /// Not what this client publishes itself
    #[arg(long)]
    pub(crate) no_local: bool,
    /// Messages keep the retained flag they were published with
    #[arg(long, alias = "rap")]
    pub(crate) retain_as_published: bool,
    /// Retained messages: 0 send them, 1 only for a new subscription, 2 never
    #[arg(long, alias = "rh", value_name = "0-2", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) retain_handling: Option<u8>,
    /// The QoS to subscribe with [default: 2]
    #[arg(short = 'q', long = "qos", id = "sub_qos", value_name = "0-2", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) sub_qos: Option<u8>,
    #[arg(long, value_name = "CODEC", help = CODEC)]
    pub(crate) codec: Option<Codec>,
    /// Share the messages with the other clients of this group: each message goes to one of them
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(crate) share: Option<String>,
    #[command(flatten)]
    pub(crate) will: WillMqtt,
}

/// What only `jmqt pub` with an MQTT server has.
#[derive(Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = MQTT)]
pub(crate) struct PubMqtt {
    /// An empty message
    #[arg(long, conflicts_with_all = ["message", "given", "lines", "file", "stdin", "clear", "template"])]
    pub(crate) empty: bool,
    #[arg(long, value_name = "CODEC", help = CODEC)]
    pub(crate) codec: Option<Codec>,
    /// The message is of no use after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) expiry: Option<Duration>,
    /// What the payload is, such as image/png [default: what --codec implies]
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Where a response is expected
    #[arg(long, value_name = "TOPIC")]
    pub(crate) response_topic: Option<String>,
    /// A name and a value for the receivers; may be given several times
    #[arg(long = "user-property", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) user_properties: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) will: WillMqtt,
}

fn group(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', '+', '#']) {
        return Err("a name without /, + and # was expected".to_owned());
    }
    Ok(text.to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE was expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What an MQTT server publishes when the connection is lost.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct WillMqtt {
    /// The topic of the will: the message that the server publishes when the connection is lost
    #[arg(long, value_name = "TOPIC")]
    pub(crate) will_topic: Option<String>,
    /// The will [default: empty]
    #[arg(long, value_name = "TEXT", requires = "will_topic")]
    pub(crate) will_message: Option<String>,
    /// The QoS of the will
    #[arg(long, value_name = "0-2", requires = "will_topic", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) will_qos: Option<u8>,
    /// The will is kept for later subscribers
    #[arg(long, requires = "will_topic")]
    pub(crate) will_retain: bool,
    /// The server waits this long for the client to come back
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "will_topic")]
    pub(crate) will_delay: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds was expected".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("more than 0 seconds were expected".to_owned()),
    }
}
