//! `jmqt pub` and `jmqt p2p` with an MQTT server.

use std::collections::VecDeque;
use std::io::Read as _;

use jmqt_client::mqtt::{Client, Codec, Error, Options, Publish, Qos, ReasonCode, Receipt};
use serde_json::json;

use crate::arguments::{Input, PubMqtt};
use crate::codec::encode;
use crate::peer::qos;
use crate::publish::lines;
use crate::template::{Values, fill};
use crate::{Failure, Output, note};

/// Messages without an acknowledgement, beyond which the next one waits.
const WINDOW: usize = 1000;
/// Mistakes that are told one by one.
const TOLD: u64 = 5;

pub(super) async fn run(
    options: Options,
    (command, topic): (&'static str, String),
    input: Input,
    mqtt: PubMqtt,
    output: Output,
) -> Result<(), Failure> {
    if input.wait_reply.is_some() {
        return Err(Failure::usage("with an MQTT server `jmqt request` waits for a reply, not --wait-reply"));
    }
    if input.text {
        return Err(Failure::usage(
            "--text: with an MQTT server every message is sent as it is, or by --codec",
        ));
    }
    let whole = whole(&input, &mqtt)?;
    let maker = Maker::new(&options, command, topic, &input, mqtt);
    // What is wrong with the only message is told before there is a connection.
    let first = whole.as_deref().map(|bytes| maker.make(bytes.to_vec(), 1)).transpose()?;
    let client = super::connect(options).await?;
    let mut sender =
        Sender { client, maker, receipts: VecDeque::new(), published: 0, failed: 0, unsent: 0, first: None };
    let sent = match (whole, first) {
        (Some(bytes), Some(first)) => sender.repeat(&bytes, first, &input).await,
        _ => sender.send_lines(&input).await,
    };
    let finished = match sent {
        Ok(()) => sender.finish(&input, output).await,
        Err(failure) => Err(failure),
    };
    sender.client.disconnect().await;
    finished
}

/// The one message that is published, if it is not one per line.
fn whole(input: &Input, mqtt: &PubMqtt) -> Result<Option<Vec<u8>>, Failure> {
    if input.lines {
        return Ok(None);
    }
    if mqtt.empty || input.clear {
        return Ok(Some(Vec::new()));
    }
    Ok(Some(match (input.given(), &input.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => {
            std::fs::read(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?
        }
        (None, None) => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            bytes
        }
    }))
}

/// Makes messages of what was typed: as the options say, or else as the configuration says for the topic.
struct Maker {
    command: &'static str,
    topic: String,
    qos: Qos,
    is_retained: bool,
    codec: Option<Codec>,
    is_template: bool,
    has_properties: bool,
    mqtt: PubMqtt,
}

impl Maker {
    fn new(options: &Options, command: &'static str, topic: String, input: &Input, mqtt: PubMqtt) -> Self {
        let usual = options.topics.of(&topic);
        // An empty message is one with every codec: it removes a retained one.
        let is_empty = mqtt.empty || input.clear;
        Self {
            command,
            topic,
            qos: input.qos.map_or(usual.qos, qos),
            is_retained: input.clear || input.retained.unwrap_or(usual.is_retained),
            codec: mqtt.codec.clone().or(usual.codec).filter(|_| !is_empty),
            is_template: input.template,
            has_properties: options.version.has_properties(),
            mqtt,
        }
    }

    fn make(&self, bytes: Vec<u8>, number: u64) -> Result<Publish, Failure> {
        let bytes = if self.is_template {
            let text = String::from_utf8(bytes)
                .map_err(|_| Failure::usage("--template: the message is not UTF-8"))?;
            fill(&text, &Values { number, asked: None })?.into_bytes()
        } else {
            bytes
        };
        let encoded = encode(self.codec.as_ref(), bytes).map_err(Failure::usage)?;
        let mut message = Publish::new(&self.topic, encoded.payload)?.qos(self.qos);
        if self.is_retained {
            message = message.retained();
        }
        if let Some(expiry) = self.mqtt.expiry {
            message = message.expires_after(expiry);
        }
        // What the codec declares MQTT 3.1.1 cannot say; what the options declare is refused there.
        let declared = encoded.content_type.filter(|_| self.has_properties);
        if let Some(content_type) = self.mqtt.content_type.as_deref().or(declared) {
            message = message.content_type(content_type);
        }
        if encoded.is_text && self.has_properties {
            message = message.as_text();
        }
        if let Some(topic) = &self.mqtt.response_topic {
            message = message.response_topic(topic);
        }
        for (name, value) in &self.mqtt.user_properties {
            message = message.user_property(name, value);
        }
        Ok(message)
    }
}

struct Sender {
    client: Client,
    maker: Maker,
    /// With the number of each message, or of its line.
    receipts: VecDeque<(u64, Receipt)>,
    published: u64,
    /// Messages that the server refused.
    failed: u64,
    /// Lines that are no messages.
    unsent: u64,
    /// What became of the first of them.
    first: Option<Failure>,
}

impl Sender {
    async fn repeat(&mut self, bytes: &[u8], first: Publish, input: &Input) -> Result<(), Failure> {
        self.send(1, &first).await?;
        for number in 2..=input.count {
            if let Some(pause) = input.interval {
                tokio::time::sleep(pause).await;
            }
            let message = self.maker.make(bytes.to_vec(), number)?;
            self.send(number, &message).await?;
            while self.receipts.len() > WINDOW {
                self.settle_oldest(input).await?;
            }
        }
        Ok(())
    }

    /// Publishes line after line; meanwhile the answers are looked at.
    async fn send_lines(&mut self, input: &Input) -> Result<(), Failure> {
        let mut lines = lines();
        let mut number = 0;
        loop {
            let is_open = self.receipts.len() < WINDOW;
            let line = tokio::select! {
                biased;
                line = lines.recv(), if is_open => line,
                settled = self.settle_oldest(input), if !self.receipts.is_empty() => {
                    settled?;
                    continue;
                }
            };
            let Some(line) = line.transpose()? else { return Ok(()) };
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let sent = match self.maker.make(line.into_bytes(), self.published + 1) {
                Ok(message) => self.send(number, &message).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = sent {
                // A line that is no message does not keep the others back.
                if self.client.ended().is_some() {
                    return Err(failure);
                }
                self.unsent += 1;
                if self.unsent <= TOLD {
                    note(format_args!("line {number}: {}", failure.message));
                }
                self.first.get_or_insert(failure);
            }
            if let Some(pause) = input.interval {
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn send(&mut self, number: u64, message: &Publish) -> Result<(), Failure> {
        let receipt = self.client.queue(message).await.map_err(|error| self.told(error))?;
        self.published += 1;
        self.receipts.push_back((number, receipt));
        Ok(())
    }

    fn told(&self, error: Error) -> Failure {
        Failure::from(error).of(format_args!("{} {}", self.maker.command, self.maker.topic))
    }

    /// Waits for the answer to the oldest message. Nothing is lost if the future is dropped.
    async fn settle_oldest(&mut self, input: &Input) -> Result<(), Failure> {
        let Some((number, receipt)) = self.receipts.front_mut() else { return Ok(()) };
        let (number, outcome) = (*number, receipt.await);
        self.receipts.pop_front();
        let failure = match outcome {
            Ok(ReasonCode::NO_MATCHING_SUBSCRIBERS) if self.maker.command == "p2p" => {
                Failure::refused(format!("p2p {}: no such client is connected", self.maker.topic))
            }
            Ok(_) => return Ok(()),
            Err(error @ (Error::Refused { .. } | Error::Expired | Error::OutcomeUnknown)) => self.told(error),
            Err(error) => return Err(self.told(error)),
        };
        self.failed += 1;
        if is_one_of_many(input) && self.failed <= TOLD {
            let what = if input.lines { "line" } else { "message" };
            note(format_args!("{what} {number}: {}", failure.message));
        }
        self.first.get_or_insert(failure);
        Ok(())
    }

    async fn finish(&mut self, input: &Input, output: Output) -> Result<(), Failure> {
        while !self.receipts.is_empty() {
            self.settle_oldest(input).await?;
        }
        let (published, failed, unsent) = (self.published, self.failed, self.unsent);
        let Some(first) = self.first.take() else {
            return if output.json {
                output.line(String::new, || json!({ "published": published }))
            } else {
                Ok(())
            };
        };
        if !is_one_of_many(input) {
            return Err(first);
        }
        if output.json {
            let published = published - failed;
            output.line(
                String::new,
                || json!({ "published": published, "refused": failed, "unsent": unsent }),
            )?;
        }
        let mut words = format!("of {} messages {failed} were refused", published + unsent);
        if unsent > 0 {
            words.push_str(&format!(", {unsent} were not sent"));
        }
        Err(if failed > 0 { Failure::refused(words) } else { Failure::usage(words) })
    }
}

/// Whether there may be other messages beside one that fails.
const fn is_one_of_many(input: &Input) -> bool {
    input.lines || input.count > 1
}
