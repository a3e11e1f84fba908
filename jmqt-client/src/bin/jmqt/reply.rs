//! `jmqt reply`: answers the messages of a channel, each with a message to its publisher alone.
//!
//! JMQT has requests to the server's application only (control channels, §9.d). Between clients a request is an ordinary
//! message, and its reply a message on the point-to-point channel of the client that published it.

use std::process::Stdio;
use std::time::Duration;

use jmqt_client::{Client, ClientId, Config, Error, Persistence, Publish, Push};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::publish::{filled_message, message};
use crate::subscribe::{Channels, refusal, tell};
use crate::template::{Values, fill};
use crate::{Failure, Output, note};

/// How long a command may take for one answer.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Wanted {
    pub(crate) channel: String,
    pub(crate) answer: Answer,
    /// Send it as a JSON string, even if it looks like JSON.
    pub(crate) is_text: bool,
    pub(crate) qos: u8,
    pub(crate) count: Option<u64>,
}

/// What is answered.
pub(crate) enum Answer {
    Text(String),
    Template(String),
    /// What this shell command prints.
    Command(String),
}

pub(crate) async fn run(config: Config, wanted: Wanted, output: Output) -> Result<(), Failure> {
    let channels = Channels::parse(std::slice::from_ref(&wanted.channel), &[])?;
    if let Answer::Text(text) = &wanted.answer {
        // A mistake is told before anything is done.
        message(crate::channel("reply")?, text.clone(), wanted.is_text)?;
    }
    let limit = config.max_packet_bytes;
    let client = Client::connect(config).await?;
    let mut events = client.events();
    // What is not answered is not acknowledged.
    let mut pushes = client.pushes().acknowledge_by_hand();
    for channel in &channels.plain {
        let subscribed = client.sub(channel, Persistence::Temporary).await;
        subscribed.map_err(|error| refusal("sub", channel, error))?;
    }
    let mut answered = 0;
    while wanted.count.is_none_or(|count| answered < count) {
        let push = tokio::select! {
            biased;
            push = pushes.next() => push.ok_or_else(|| Failure::ended(&client))?,
            event = events.next() => {
                tell(event)?;
                continue;
            }
        };
        if push.is_retained() || !channels.has(&push) {
            continue;
        }
        // Messages of the server's own have no publisher.
        let Ok(publisher) = ClientId::parse(push.publisher()) else { continue };
        match reply(&wanted, &push, &publisher, answered + 1, limit).await {
            Ok(reply) => match client.publish(&reply).await {
                Ok(()) => {
                    answered += 1;
                    output.line(
                        || format!("answered {publisher}: {}", reply.data()),
                        || serde_json::json!({ "answered": publisher.as_str(), "channel": push.channel() }),
                    )?;
                }
                Err(error @ Error::Refused { .. }) => note(format_args!("no answer to {publisher}: {error}")),
                Err(error) => return Err(error.into()),
            },
            Err(failure) => note(format_args!("no answer to {publisher}: {}", failure.message)),
        }
        client.acknowledge(&push);
    }
    client.close().await;
    Ok(())
}

async fn reply(
    wanted: &Wanted,
    push: &Push,
    publisher: &ClientId,
    number: u64,
    limit: usize,
) -> Result<Publish, Failure> {
    let text = match &wanted.answer {
        Answer::Text(text) => text.clone(),
        Answer::Template(template) => fill(template, &Values { number, asked: Some(push) })?,
        Answer::Command(command) => {
            let output = tokio::time::timeout(COMMAND_LIMIT, run_command(command, push, limit)).await;
            output.map_err(|_| Failure::new(format!("the command took longer than {COMMAND_LIMIT:?}")))??
        }
    };
    let message = if matches!(wanted.answer, Answer::Template(_)) { filled_message } else { message };
    let reply = message(jmqt_client::ChannelName::of_client(publisher), text, wanted.is_text)?;
    Ok(if wanted.qos == 1 { reply.at_least_once() } else { reply.checked() })
}

/// Gives a shell command the message's data, and takes what it prints.
async fn run_command(command: &str, push: &Push, limit: usize) -> Result<String, Failure> {
    let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
    let mut child = Command::new(shell)
        .args([flag, command])
        .env("JMQT_CHANNEL", push.channel())
        .env("JMQT_PUBLISHER", push.publisher())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::new(format!("{shell}: {error}")))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::new("the command has no input and output"));
    };
    let ask = async move {
        // It need not read what is asked.
        let _ = stdin.write_all(push.data().as_bytes()).await;
    };
    let mut printed = Vec::new();
    let mut stdout = stdout.take(limit as u64);
    let ((), read) = tokio::join!(ask, stdout.read_to_end(&mut printed));
    read?;
    if printed.len() >= limit {
        return Err(Failure::new(format!("the command printed {limit} bytes or more")));
    }
    let status = child.wait().await?;
    if !status.success() {
        return Err(Failure::new(format!("the command failed: {status}")));
    }
    String::from_utf8(printed).map_err(|_| Failure::new("the command printed text that is not UTF-8"))
}
