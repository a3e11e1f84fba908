//! `jmqt admin`: asks the listener for operators of a server (ADMIN_ADDRESS).
//!
//! Tables for people, and the answer of the server as it is for programs (`--json`). The key is in a file or in the environment,
//! never an argument, which others on this machine could see.

mod http;
mod table;

use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::{Output, terminal};
use http::Server;

#[derive(Debug, Args)]
pub(crate) struct AdminArguments {
    /// The listener for operators: an address and a port [default: 127.0.0.1:9090]
    #[arg(
        long,
        env = "JMQT_ADMIN_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9090",
        hide_default_value = true
    )]
    address: String,
    /// The file with the key, which `jmqtd admin-key` made; otherwise the environment variable JMQT_ADMIN_KEY has the key
    #[arg(long, env = "JMQT_ADMIN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Whether clients should use the server, and what is in the way
    Ready,
    /// The nodes of the cluster
    Nodes,
    /// The counters of the server
    Counters,
    /// The metrics of the server, as Prometheus reads them
    Metrics,
    /// The clients that have a session
    Connections {
        /// Only those whose ids begin with this
        #[arg(long, value_name = "TEXT")]
        begins: Option<String>,
        /// Only those whose ids contain this
        #[arg(long, value_name = "TEXT")]
        contains: Option<String>,
        /// Only those of this language
        #[arg(long, value_name = "LANGUAGE", value_parser = ["jmqt", "mqtt"])]
        protocol: Option<String>,
        /// Only those of the node that answers
        #[arg(long)]
        here: bool,
        /// How many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Those after this client
        #[arg(long, value_name = "CLIENT")]
        after: Option<String>,
    },
    /// Everything about one client
    Connection {
        /// The client's id
        client: String,
    },
    /// The clients that leave most bytes unread
    Slow {
        /// How many
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// The clients that are subscribed to a channel, on the node that answers
    Subscriptions {
        /// The channel
        channel: String,
        /// How many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Those after this client
        #[arg(long, value_name = "CLIENT")]
        after: Option<String>,
    },
    /// Publish a message as the server
    Publish {
        /// The channel
        channel: String,
        #[command(flatten)]
        data: Data,
        /// 0, or 1: stored, and delivered until acknowledged
        #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
        qos: u8,
        /// Keep the message for later subscribers
        #[arg(short, long)]
        retain: bool,
        /// Publish as this client
        #[arg(long = "as", value_name = "CLIENT")]
        sender: Option<String>,
        /// Publish once, however often the command is called with this text, within ten minutes
        #[arg(long, value_name = "TEXT")]
        once: Option<String>,
    },
    /// Publish many messages: lines of standard input, each an object such as {"channel":"news","data":1,"qos":1}
    PublishMany,
    /// Subscribe a client
    Subscribe {
        /// The client's id
        client: String,
        /// The channel
        channel: String,
        /// The subscription outlives the connection
        #[arg(short, long)]
        persistent: bool,
    },
    /// End a subscription of a client
    Unsubscribe {
        /// The client's id
        client: String,
        /// The channel
        channel: String,
    },
    /// Close the connection of a client
    Disconnect {
        /// The client's id
        client: String,
        /// For the user of the client
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
        /// The client must not reconnect by itself
        #[arg(long)]
        keep_out: bool,
    },
    /// Retained messages
    Retained {
        #[command(subcommand)]
        command: RetainedCommand,
    },
    /// The messages that the store keeps for a client
    Pending {
        /// The client's id
        client: String,
        /// Drop them; the client must not be connected
        #[arg(long)]
        purge: bool,
    },
    /// Close the listeners and the sessions of a node, which must be restarted to serve clients again
    Drain {
        /// The id of the node, from `jmqt admin nodes`
        node: String,
    },
}

#[derive(Debug, Subcommand)]
enum RetainedCommand {
    /// The channels with a retained message
    List {
        /// Only channels that this MQTT filter matches
        #[arg(default_value = "#")]
        filter: String,
    },
    /// The retained message of a channel
    Get {
        /// The channel
        channel: String,
    },
    /// Publish a retained message
    Set {
        /// The channel
        channel: String,
        #[command(flatten)]
        data: Data,
    },
    /// Delete the retained message of a channel
    Clear {
        /// The channel
        channel: String,
    },
}

#[derive(Debug, Args)]
struct Data {
    /// The message: JSON, or any other text, which is sent as text; - reads standard input
    data: String,
    /// Send it as text, even if it is JSON
    #[arg(long, conflicts_with = "base64")]
    text: bool,
    /// It is bytes in Base64
    #[arg(long)]
    base64: bool,
}

impl Data {
    /// Puts the data into a request.
    fn put(self, request: &mut Map<String, Value>) -> Result<(), Failure> {
        let text = match self.data.as_str() {
            "-" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text
            }
            _ => self.data,
        };
        // As it is written, so that numbers keep their digits.
        let raw = || serde_json::value::RawValue::from_string(text.trim().to_owned()).ok();
        let (name, value) = match (self.text, self.base64) {
            (true, _) => ("text", text.into()),
            (_, true) => ("base64", text.trim().into()),
            _ if raw().is_some() => (http::RAW, text.trim().into()),
            _ => ("text", text.into()),
        };
        request.insert(name.to_owned(), value);
        Ok(())
    }
}

/// Does what is asked.
pub(crate) async fn run(arguments: AdminArguments, output: Output) -> Result<(), Failure> {
    let server = Server::new(arguments.address, key(arguments.key_file)?);
    let print = |table: fn(&Value) -> String, answer: &Value| {
        output.line(|| terminal::printed(table(answer)), || answer.clone())
    };
    match arguments.command {
        AdminCommand::Ready => {
            let (status, text) = server.ask("GET", "/readyz", None, &[]).await?;
            let answer = http::json(&text)?;
            print(table::ready, &answer)?;
            if status == 200 { Ok(()) } else { Err(Failure::new("the server is not ready")) }
        }
        AdminCommand::Metrics => {
            let text = http::expect(server.ask("GET", "/metrics", None, &[]).await?)?;
            output.line(|| text.trim_end().to_owned(), || json!({ "metrics": text }))
        }
        AdminCommand::Nodes => print(table::nodes, &server.get("nodes", &[]).await?),
        AdminCommand::Counters => print(table::counters, &server.get("counters", &[]).await?),
        AdminCommand::Connections { begins, contains, protocol, here, limit, after } => {
            let limit = limit.to_string();
            let query = [
                ("begins", begins.as_deref()),
                ("contains", contains.as_deref()),
                ("protocol", protocol.as_deref()),
                ("here", here.then_some("true")),
                ("limit", Some(&limit)),
                ("after", after.as_deref()),
            ];
            print(table::connections, &server.get("connections", &query).await?)
        }
        AdminCommand::Connection { client } => {
            print(table::connection, &server.get("connection", &[("client", Some(&client))]).await?)
        }
        AdminCommand::Slow { limit } => {
            let limit = limit.to_string();
            print(table::slow, &server.get("slow-consumers", &[("limit", Some(&limit))]).await?)
        }
        AdminCommand::Subscriptions { channel, limit, after } => {
            let limit = limit.to_string();
            let query =
                [("channel", Some(channel.as_str())), ("limit", Some(&limit)), ("after", after.as_deref())];
            print(table::subscriptions, &server.get("subscriptions", &query).await?)
        }
        AdminCommand::Publish { channel, data, qos, retain, sender, once } => {
            let mut request = Map::new();
            request.insert("channel".to_owned(), channel.into());
            data.put(&mut request)?;
            request.insert("qos".to_owned(), qos.into());
            request.insert("retain".to_owned(), retain.into());
            if let Some(sender) = sender {
                request.insert("sender".to_owned(), sender.into());
            }
            let headers: Vec<_> = once.as_deref().map(|once| ("Idempotency-Key", once)).into_iter().collect();
            print(|_| "published".to_owned(), &server.send("POST", "publish", request, &headers).await?)
        }
        AdminCommand::PublishMany => publish_many(&server, output).await,
        AdminCommand::Subscribe { client, channel, persistent } => {
            let request = object(json!({ "client": client, "channel": channel, "persistent": persistent }));
            print(|_| "subscribed".to_owned(), &server.send("POST", "subscribe", request, &[]).await?)
        }
        AdminCommand::Unsubscribe { client, channel } => {
            let request = object(json!({ "client": client, "channel": channel }));
            print(table::unsubscribed, &server.send("POST", "unsubscribe", request, &[]).await?)
        }
        AdminCommand::Disconnect { client, message, keep_out } => {
            let request = object(json!({ "client": client, "message": message, "keep_out": keep_out }));
            print(table::disconnected, &server.send("POST", "disconnect", request, &[]).await?)
        }
        AdminCommand::Retained { command } => match command {
            RetainedCommand::List { filter } => {
                let mut after: Option<String> = None;
                loop {
                    let query = [("filter", Some(filter.as_str())), ("after", after.as_deref())];
                    let page = server.get("retained", &query).await?;
                    for channel in page["channels"].as_array().into_iter().flatten() {
                        print(|channel| channel["channel"].as_str().unwrap_or_default().to_owned(), channel)?;
                    }
                    after = page["next"].as_str().map(ToOwned::to_owned);
                    if after.is_none() {
                        return Ok(());
                    }
                }
            }
            RetainedCommand::Get { channel } => {
                let query = [("channel", Some(channel.as_str()))];
                print(|answer| answer["data"].to_string(), &server.get("retained/message", &query).await?)
            }
            RetainedCommand::Set { channel, data } => {
                let mut request = object(json!({ "channel": channel }));
                data.put(&mut request)?;
                print(|_| "published".to_owned(), &server.send("PUT", "retained", request, &[]).await?)
            }
            RetainedCommand::Clear { channel } => {
                let query = [("channel", Some(channel.as_str()))];
                print(table::cleared, &server.delete("retained", &query).await?)
            }
        },
        AdminCommand::Pending { client, purge: false } => {
            print(table::pending, &server.get("pending", &[("client", Some(&client))]).await?)
        }
        AdminCommand::Pending { client, purge: true } => {
            print(table::purged, &server.delete("pending", &[("client", Some(&client))]).await?)
        }
        AdminCommand::Drain { node } => {
            let request = object(json!({ "node": node }));
            print(table::drained, &server.send("POST", "drain", request, &[]).await?)
        }
    }
}

/// Publishes the lines of standard input, as many at a time as the server takes.
async fn publish_many(server: &Server, output: Output) -> Result<(), Failure> {
    const AT_A_TIME: usize = 500;
    const MOST_BYTES: usize = 512 * 1024;

    let mut lines = std::io::stdin().lines();
    let (mut published, mut refused, mut first) = (0, 0, 1);
    loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < AT_A_TIME && bytes < MOST_BYTES {
            let Some(line) = lines.next().transpose()? else { break };
            bytes += line.len();
            batch.push(line);
        }
        if batch.is_empty() {
            break;
        }
        let request = format!("{{\"messages\":[{}]}}", batch.join(","));
        let answer = server.send_text("POST", "publish-many", &request, &[]).await?;
        published += answer["published"].as_u64().unwrap_or_default();
        for problem in answer["refused"].as_array().into_iter().flatten() {
            refused += 1;
            let line = first + problem["index"].as_u64().unwrap_or_default();
            crate::note(format_args!("line {line}: {}", terminal::noted(http::problem(problem))));
        }
        first += batch.len() as u64;
    }
    output.line(
        || format!("published {published}"),
        || json!({ "published": published, "refused": refused }),
    )?;
    match refused {
        0 => Ok(()),
        _ => Err(Failure::refused(format!("{refused} messages were refused"))),
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// The key, from its file or from the environment.
fn key(file: Option<PathBuf>) -> Result<Option<String>, Failure> {
    let text = match file {
        Some(file) => {
            let text = std::fs::read_to_string(&file);
            Some(text.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?)
        }
        None => std::env::var("JMQT_ADMIN_KEY").ok(),
    };
    let key = text.map(|text| text.trim().to_owned()).filter(|key| !key.is_empty());
    match key {
        Some(key) if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(Failure::usage("the admin key is not one word: expected what `jmqtd admin-key` has printed"))
        }
        key => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(data: &str, text: bool, base64: bool) -> Map<String, Value> {
        let mut request = Map::new();
        Data { data: data.to_owned(), text, base64 }.put(&mut request).unwrap();
        request
    }

    #[test]
    fn data_is_json_if_it_can_be_and_text_otherwise() {
        assert_eq!(put("{\"a\": 1.50}", false, false), object(json!({ http::RAW: "{\"a\": 1.50}" })));
        assert_eq!(put("hello", false, false), object(json!({ "text": "hello" })));
        assert_eq!(put("7", true, false), object(json!({ "text": "7" })));
        assert_eq!(put("AA==", false, true), object(json!({ "base64": "AA==" })));
    }
}
