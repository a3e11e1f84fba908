//! `jmqt pub` and `jmqt p2p`.

use std::collections::VecDeque;
use std::io::{BufRead as _, Read as _};

use jmqt_client::{ChannelName, Client, Config, Publish, Receipt};

use crate::arguments::Input;
use crate::{Failure, Output};

/// QoS 1 publishes under way at a time.
const WINDOW: usize = 1000;
/// Lines that are read ahead.
const LINES_AHEAD: usize = 1024;

pub(crate) async fn run(
    config: Config,
    channel: ChannelName,
    input: Input,
    output: Output,
) -> Result<(), Failure> {
    let whole = match &input {
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
        Input { message, .. } => message.clone(),
    };
    let client = Client::connect(config).await?;
    let mut sender =
        Sender { client: &client, channel, input: &input, receipts: VecDeque::new(), published: 0 };
    match whole {
        Some(text) => {
            for number in 0..input.repeat {
                if let (Some(pause), true) = (input.interval, number > 0) {
                    tokio::time::sleep(pause).await;
                }
                sender.send(text.clone()).await?;
            }
        }
        None => {
            let mut lines = lines();
            while let Some(line) = lines.recv().await {
                let line = line?;
                if line.trim().is_empty() {
                    continue;
                }
                sender.send(line).await?;
                if let Some(pause) = input.interval {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
    let published = sender.finish().await?;
    client.close().await;
    output.line_if_json(|| serde_json::json!({ "published": published }))
}

impl Output {
    fn line_if_json(self, json: impl FnOnce() -> serde_json::Value) -> Result<(), Failure> {
        if self.json { self.line(String::new, json) } else { Ok(()) }
    }
}

/// Reading standard input blocks, so a thread does it. It ends with its input, or with the process.
fn lines() -> tokio::sync::mpsc::Receiver<std::io::Result<String>> {
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
    receipts: VecDeque<Receipt>,
    published: u64,
}

impl Sender<'_> {
    async fn send(&mut self, text: String) -> Result<(), Failure> {
        let message = message(self.channel.clone(), text, self.input.text)?;
        let message = if self.input.retained { message.retained() } else { message };
        let message = if self.input.qos == 1 { message.at_least_once() } else { message };
        self.receipts.push_back(self.client.queue(&message).await?);
        self.published += 1;
        if self.receipts.len() > WINDOW
            && let Some(oldest) = self.receipts.pop_front()
        {
            oldest.await?;
        }
        Ok(())
    }

    async fn finish(self) -> Result<u64, Failure> {
        for receipt in self.receipts {
            receipt.await?;
        }
        Ok(self.published)
    }
}

/// JSON as it stands; any other text as a JSON string. What begins like JSON and is none is a mistake, unless it `is_text`.
fn message(channel: ChannelName, text: String, is_text: bool) -> Result<Publish, Failure> {
    let as_string =
        |channel| Publish::json(channel, text.trim_end_matches(['\r', '\n'])).map_err(Failure::new);
    if is_text {
        return as_string(channel);
    }
    match Publish::raw(channel.clone(), text.as_str()) {
        Ok(message) => Ok(message),
        Err(error) if text.trim_start().starts_with(['{', '[', '"']) => Err(Failure::usage(format!(
            "the message begins like JSON and is none: {error}. To send it as text: --text"
        ))),
        Err(_) => as_string(channel),
    }
}
