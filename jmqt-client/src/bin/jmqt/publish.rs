//! `jmqt pub` and `jmqt p2p`.

use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _};

use jmqt_client::{ChannelName, Client, Config, Error, Publish, Pushes, Receipt, StatusCode};

use crate::arguments::Input;
use crate::template::{Values, fill};
use crate::terminal::{noted, printed};
use crate::{Failure, Output, note};

/// Publishes that are not answered yet, with QoS 1 and with QoS 0: as many as may be under way before the next one waits.
const WINDOW: usize = 1000;
const WINDOW_QOS_0: usize = 10_000;
/// Lines that are read ahead.
const LINES_AHEAD: usize = 1024;
/// Refusals that are told one by one.
const TOLD: u64 = 5;

pub(crate) async fn run(
    config: Config,
    channel: ChannelName,
    input: Input,
    output: Output,
) -> Result<(), Failure> {
    let whole = whole(&input)?;
    let client = Client::connect(config).await?;
    let replies = input.wait_reply.map(|_| client.pushes().acknowledge_by_hand());
    let mut sender = Sender {
        client: &client,
        channel: channel.clone(),
        input: &input,
        receipts: VecDeque::new(),
        published: 0,
        refused: 0,
        lost: 0,
        unsent: 0,
        first: None,
    };
    match whole {
        Some(text) => sender.repeat(&text).await?,
        None => sender.send_lines().await?,
    }
    let sent = sender.finish(output).await;
    let replied = match (&sent, replies, input.wait_reply) {
        (Ok(()), Some(replies), Some(limit)) => {
            let reply = tokio::time::timeout(limit, show_reply(&client, replies, &channel, output));
            reply.await.unwrap_or_else(|_| Err(Failure::timeout_of("no reply came")))
        }
        _ => Ok(()),
    };
    client.close().await;
    sent.and(replied)
}

/// The one message that is published, if it is not one per line.
fn whole(input: &Input) -> Result<Option<String>, Failure> {
    Ok(match input {
        Input { clear: true, .. } => Some("null".to_owned()),
        Input { lines: true, .. } => None,
        Input { file: Some(path), .. } => Some(
            std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?,
        ),
        Input { stdin: true, .. } => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            Some(text)
        }
        input => input.given().cloned(),
    })
}

/// Prints the first message that comes to this client alone; to a message for one client, that client's.
async fn show_reply(
    client: &Client,
    mut replies: Pushes,
    asked: &ChannelName,
    output: Output,
) -> Result<(), Failure> {
    let from = asked.as_str().strip_prefix('#');
    loop {
        let Some(push) = replies.next().await else { return Err(Failure::ended(client)) };
        if push.channel().starts_with('#') && from.is_none_or(|from| from == push.publisher()) {
            client.acknowledge(&push);
            return output.line(|| printed(push.data().to_owned()), || crate::subscribe::object(&push));
        }
    }
}

/// Reading standard input blocks, so a thread does it. It ends with its input, or with the process.
pub(crate) fn lines() -> tokio::sync::mpsc::Receiver<std::io::Result<String>> {
    let (line_read, lines) = tokio::sync::mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line_read.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

struct Sender<'c> {
    client: &'c Client,
    channel: ChannelName,
    input: &'c Input,
    /// With the number of each message, or of its line.
    receipts: VecDeque<(u64, Receipt)>,
    published: u64,
    /// Messages that the server refused, and QoS 0 messages that went with a connection that broke.
    refused: u64,
    lost: u64,
    /// Lines that are no messages.
    unsent: u64,
    /// What became of the first of them.
    first: Option<Failure>,
}

impl Sender<'_> {
    async fn repeat(&mut self, text: &str) -> Result<(), Failure> {
        for number in 0..self.input.count {
            if let (Some(pause), true) = (self.input.interval, number > 0) {
                tokio::time::sleep(pause).await;
            }
            let message = self.message(text.to_owned())?;
            self.send(number + 1, &message).await?;
            while self.receipts.len() > self.window() {
                self.settle_oldest().await?;
            }
        }
        Ok(())
    }

    /// Publishes line after line; meanwhile the answers are looked at.
    async fn send_lines(&mut self) -> Result<(), Failure> {
        let mut lines = lines();
        let mut number = 0;
        loop {
            let is_open = self.receipts.len() < self.window();
            let line = tokio::select! {
                biased;
                line = lines.recv(), if is_open => line,
                settled = self.settle_oldest(), if !self.receipts.is_empty() => {
                    settled?;
                    continue;
                }
            };
            let Some(line) = line.transpose()? else { return Ok(()) };
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let sent = match self.message(line) {
                Ok(message) => self.send(number, &message).await,
                Err(failure) => {
                    self.pass_over(number, &failure);
                    continue;
                }
            };
            match sent {
                Err(error @ Error::PacketTooLarge { .. }) => self.pass_over(number, &error.into()),
                sent => sent?,
            }
            if let Some(pause) = self.input.interval {
                tokio::time::sleep(pause).await;
            }
        }
    }

    fn window(&self) -> usize {
        if self.input.qos == Some(1) { WINDOW } else { WINDOW_QOS_0 }
    }

    /// The next message.
    fn message(&self, text: String) -> Result<Publish, Failure> {
        let message = if self.input.template {
            let text = fill(&text, &Values { number: self.published + 1, asked: None })?;
            filled_message(self.channel.clone(), text, self.input.text)?
        } else {
            message(self.channel.clone(), text, self.input.text)?
        };
        let message =
            if self.input.retained == Some(true) || self.input.clear { message.retained() } else { message };
        // A refusal is told with QoS 0, too.
        Ok(if self.input.qos == Some(1) { message.at_least_once() } else { message.checked() })
    }

    async fn send(&mut self, number: u64, message: &Publish) -> Result<(), Error> {
        let receipt = self.client.queue(message).await?;
        self.published += 1;
        self.receipts.push_back((number, receipt));
        Ok(())
    }

    /// A line that is no message does not keep the others back.
    fn pass_over(&mut self, line: u64, failure: &Failure) {
        self.unsent += 1;
        if self.unsent <= TOLD {
            note(format_args!("line {line}: {}", failure.message));
        }
    }

    /// Whether there may be other messages beside one that fails.
    const fn is_one_of_many(&self) -> bool {
        self.input.lines || self.input.count > 1
    }

    fn refusal(&self, error: Error) -> Failure {
        let own = self.client.token().map(|(client, _)| ChannelName::of_client(&client));
        let is_own = own.as_ref() == Some(&self.channel) || self.channel.as_str() == "#me";
        let hint = match error.status() {
            StatusCode::CLIENT_OFFLINE if is_own => "a client cannot send to itself",
            StatusCode::CLIENT_OFFLINE => "no such client is connected",
            StatusCode::NOT_ALLOWED if self.input.retained == Some(true) => {
                "the application does not allow it, or there are too many retained messages"
            }
            StatusCode::NOT_ALLOWED => "the application does not allow it",
            _ => "",
        };
        let request = if self.channel.as_str().starts_with('#') { "p2p" } else { "pub" };
        Failure::of_request(request, &self.channel, hint, error)
    }

    /// Waits for the answer to the oldest message. Nothing is lost if the future is dropped.
    async fn settle_oldest(&mut self) -> Result<(), Failure> {
        let Some((number, receipt)) = self.receipts.front_mut() else { return Ok(()) };
        let (number, outcome) = (*number, receipt.await);
        self.receipts.pop_front();
        let Err(error) = outcome else { return Ok(()) };
        match error {
            Error::Refused { .. } => self.refused += 1,
            Error::ConnectionLost => self.lost += 1,
            error => return Err(error.into()),
        }
        let failure = self.refusal(error);
        if self.is_one_of_many() && self.refused + self.lost <= TOLD {
            let what = if self.input.lines { "line" } else { "message" };
            note(format_args!("{what} {number}: {}", failure.message));
        }
        self.first.get_or_insert(failure);
        Ok(())
    }

    async fn finish(mut self, output: Output) -> Result<(), Failure> {
        while !self.receipts.is_empty() {
            self.settle_oldest().await?;
        }
        let is_one_of_many = self.is_one_of_many();
        let Self { published, refused, lost, unsent, first, .. } = self;
        match first {
            None if unsent == 0 => {
                return output.line_if_json(|| serde_json::json!({ "published": published }));
            }
            Some(failure) if !is_one_of_many => return Err(failure),
            _ => {}
        }
        output.line_if_json(|| {
            let published = published - refused - lost;
            serde_json::json!({ "published": published, "refused": refused, "lost": lost, "unsent": unsent })
        })?;
        let mut words = format!("of {} messages {refused} were refused", published + unsent);
        if lost > 0 {
            words.push_str(&format!(", {lost} may be lost with the connection"));
        }
        if unsent > 0 {
            words.push_str(&format!(
                ", {unsent} were not sent because they begin like JSON and are not JSON, or are too large"
            ));
        }
        Err(match (refused, lost) {
            (1.., _) => Failure::refused(words),
            (0, 1..) => Failure::disconnected(words),
            (0, 0) => Failure::usage(words),
        })
    }
}

/// [`message`] of a template whose placeholders have been replaced: an error shows the result, or it could not be understood.
pub(crate) fn filled_message(channel: ChannelName, text: String, is_text: bool) -> Result<Publish, Failure> {
    let start = start_of(&text);
    message(channel, text, is_text)
        .map_err(|failure| failure.of(format_args!("with its placeholders replaced: {start}")))
}

/// As much of a text as an error message has room for.
fn start_of(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut letters = text.chars();
    let start = letters.by_ref().take(SHOWN).collect();
    let start: String = noted(start);
    if letters.next().is_none() { start } else { start + "…" }
}

impl Output {
    fn line_if_json(self, json: impl FnOnce() -> serde_json::Value) -> Result<(), Failure> {
        if self.json { self.line(String::new, json) } else { Ok(()) }
    }
}

/// JSON unchanged; any other text as a JSON string. Text that begins like JSON and is not JSON is a mistake, unless it
/// `is_text`.
pub(crate) fn message(channel: ChannelName, text: String, is_text: bool) -> Result<Publish, Failure> {
    let as_string =
        |channel| Publish::json(channel, text.trim_end_matches(['\r', '\n'])).map_err(Failure::new);
    if is_text {
        return as_string(channel);
    }
    match Publish::raw(channel.clone(), text.as_str()) {
        Ok(message) => Ok(message),
        Err(error) if text.trim_start().starts_with(['{', '[', '"']) => Err(Failure::usage(format!(
            "the message begins like JSON and is not JSON: {error}; --text sends it as a string"
        ))),
        Err(_) => as_string(channel),
    }
}
