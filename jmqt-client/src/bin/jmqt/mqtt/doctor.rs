//! `jmqt doctor` with an MQTT server: every step to a session, its limits, and messages that come back.

use std::time::Duration;

use jmqt_client::Step;
use jmqt_client::mqtt::{Client, Error, Information, Message, Options, Publish, Qos, Subscription, diagnose};
use tokio::time::{Instant, timeout};

use crate::findings::{Findings, Verdict, next};
use crate::peer::qos;
use crate::{Failure, Output, random_digits};

/// How long a message may take.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long the retained message is of use, should it stay.
const EXPIRY: Duration = Duration::from_secs(300);
/// How far the time that is left of it may be off: it is in whole seconds.
const TOLERANCE: Duration = Duration::from_secs(2);

const ACCESS: &str = "the server's access rules may forbid it, or drop the message silently; --topic TOPIC uses topics below another one";

pub(crate) async fn run(mut options: Options, topic: Option<String>, output: Output) -> Result<(), Failure> {
    // All steps are about one server.
    options.servers.truncate(1);
    let server = &options.servers[0];
    let mut findings = Findings::begin(output, &server.to_string())?;
    let mut written = Ok(());
    let outcome = diagnose(&options, &mut |finding| {
        if written.is_ok() {
            written = findings.add_finding(&finding);
        }
    })
    .await;
    written?;
    let information = match outcome {
        Ok(information) => information,
        Err(error) => {
            let scheme = server.to_string();
            let is_tls = scheme.starts_with("mqtts:") || scheme.starts_with("mqtt+wss:");
            let protocol = (is_tls, scheme.starts_with("mqtt+"));
            let step = error.step().unwrap_or_else(|| next(findings.last(), protocol, Step::Connect));
            return Err(findings.end_with(step, Failure::from(error)));
        }
    };
    look_at_limits(&information, &mut findings)?;
    let base = topic.unwrap_or_else(|| "jmqt-doctor".to_owned());
    let topic = format!("{}/{}", base.trim_end_matches('/'), random_digits()?);
    let mut doctor = Doctor { options, information, topic, findings };
    if doctor.exchange().await? {
        doctor.keep().await?;
    }
    doctor.findings.end()
}

/// What the server said in its CONNACK that programs may not expect.
fn look_at_limits(information: &Information, findings: &mut Findings) -> Result<(), Failure> {
    const SMALL_PACKET: u32 = 64 << 10;
    const FEW_MESSAGES: u16 = 10;
    if !information.version.has_properties() {
        let words = format!(
            "servers do not tell their limits before MQTT 5, keep alive {} s",
            information.keep_alive
        );
        return findings.add(Verdict::Ok, "limits", None, &words, "");
    }
    let mut found = Vec::new();
    let mut note = |is_notable: bool, words: String, advice: &'static str| {
        if is_notable {
            found.push((words, advice));
        }
    };
    let most = information.maximum_qos.bits();
    note(most < 2, format!("QoS at most {most}"), "publish with that QoS at most: the server refuses more");
    note(
        information.receive_maximum < FEW_MESSAGES,
        format!("only {} unacknowledged messages", information.receive_maximum),
        "publishing is slow with many at a time; the server's configuration may allow more",
    );
    if let Some(size) = information.maximum_packet_size {
        let advice = "larger messages end the connection; the server's configuration may allow more";
        note(size < SMALL_PACKET, format!("packets of at most {size} bytes"), advice);
    }
    let advice =
        "publish without -r: the server, or its configuration, does not keep messages for later subscribers";
    note(!information.retain_available, "no retained messages".to_owned(), advice);
    let advice = "subscribe to each topic by its name: filters with + and # are refused";
    note(!information.wildcards_available, "no wildcards".to_owned(), advice);
    let advice =
        "$share/GROUP/FILTER and `jmqt sub --share` are refused: every subscriber gets every message";
    note(!information.shared_available, "no shared subscriptions".to_owned(), advice);
    let advice = "programs cannot tell by an identifier which of their subscriptions a message is for";
    note(!information.subscription_ids_available, "no subscription identifiers".to_owned(), advice);
    if found.is_empty() {
        let size = information
            .maximum_packet_size
            .map_or("any size".to_owned(), |size| format!("up to {size} bytes"));
        let words = format!("QoS 0 to 2, packets of {size}, keep alive {} s", information.keep_alive);
        return findings.add(Verdict::Ok, "limits", None, &words, "");
    }
    found.iter().try_for_each(|(words, advice)| findings.add(Verdict::Warn, "limits", None, words, advice))
}

struct Doctor {
    options: Options,
    information: Information,
    /// Nobody else uses it.
    topic: String,
    findings: Findings,
}

impl Doctor {
    /// A message with each QoS to ourselves. `false` if nothing more can be tried.
    async fn exchange(&mut self) -> Result<bool, Failure> {
        let Some((client, mut stream)) =
            self.subscribe("subscribe", &self.topic.clone(), Qos::ExactlyOnce).await?
        else {
            return Ok(false);
        };
        let most = self.information.maximum_qos.bits();
        // QoS 1 first: a server says why it refuses that.
        for number in [1, 0, 2].into_iter().filter(|number| *number <= most) {
            let since = Instant::now();
            let step = format!("QoS {number}");
            let data = format!("{number} {}", random_digits()?);
            let message = Publish::new(&self.topic, data.clone())?.qos(qos(number));
            let published = timeout(ARRIVAL, client.publish(&message)).await;
            if let Ok(Err(error)) = published {
                self.findings.add_error(&step, &format!("publish {}: {error}", self.topic))?;
                return Ok(false);
            }
            if published.is_err() || arrival(&mut stream, data.as_bytes()).await.is_none() {
                let found = format!("published on {}, and not received within {ARRIVAL:?}", self.topic);
                self.findings.add(Verdict::Fail, &step, None, &found, ACCESS)?;
                return Ok(false);
            }
            let found = format!("published on {} and received", self.topic);
            self.findings.add(Verdict::Ok, &step, Some(since.elapsed()), &found, "")?;
        }
        client.disconnect().await;
        Ok(true)
    }

    /// A retained message comes on another connection, and its time is counted down there.
    async fn keep(&mut self) -> Result<(), Failure> {
        if !self.information.retain_available {
            return Ok(()); // told among the limits
        }
        const STEP: &str = "retained";
        let topic = format!("{}/retained", self.topic);
        let data = random_digits()?;
        let v5 = self.options.version.has_properties();
        let message = Publish::new(&topic, data.clone())?.at_least_once().retained();
        let message = if v5 { message.expires_after(EXPIRY) } else { message };
        let client = match Client::connect(self.options.clone()).await {
            Ok(client) => client,
            Err(error) => return self.findings.add_error(STEP, &error.to_string()),
        };
        let since = Instant::now();
        let published = client.publish(&message).await;
        let acknowledged = Instant::now();
        client.disconnect().await;
        if let Err(error) = published {
            return self.findings.add_error(STEP, &format!("publish {topic}: {error}"));
        }
        let asked = Instant::now();
        let subscribed = self.subscribe(STEP, &topic, Qos::AtLeastOnce).await?;
        let Some((client, mut stream)) = subscribed else { return Ok(()) };
        let kept = arrival(&mut stream, data.as_bytes()).await;
        let clear = Publish::new(&topic, "")?.at_least_once().retained();
        let cleared = client.publish(&clear).await;
        match &kept {
            Some(message) if message.is_retained() => {
                let found = format!("kept on {topic} and received on another connection");
                self.findings.add(Verdict::Ok, STEP, Some(since.elapsed()), &found, "")?;
            }
            Some(_) => {
                let advice = "the server, or a proxy in between, drops the flag: clients cannot tell it from a new message";
                self.findings.add(Verdict::Fail, STEP, None, "it came without the retained flag", advice)?;
            }
            None => {
                let found =
                    format!("kept on {topic}, and not received on another connection within {ARRIVAL:?}");
                let advice = "the server keeps no retained messages, or its nodes do not share them";
                self.findings.add(Verdict::Fail, STEP, None, &found, advice)?;
            }
        }
        if let Err(error) = cleared {
            let advice =
                "it is removed when it expires; with MQTT 3.1.1, publish an empty retained message there";
            self.findings.add(Verdict::Warn, "clean up", None, &format!("{topic}: {error}"), advice)?;
        }
        client.disconnect().await;
        if let (Some(message), true) = (kept, v5) {
            // The server had it between these times.
            self.look_at_clock(&message, (asked.duration_since(acknowledged), since.elapsed()))?;
        }
        Ok(())
    }

    /// A server counts the expiry of a message down by its clock. If another node took the message, clocks that differ show.
    fn look_at_clock(
        &mut self,
        message: &Message,
        (least, most): (Duration, Duration),
    ) -> Result<(), Failure> {
        const STEP: &str = "clock";
        let Some(left) = message.expiry() else {
            let advice = "messages that are of no use any more will be delivered";
            return self.findings.add(
                Verdict::Warn,
                STEP,
                None,
                "the server does not tell when a message expires",
                advice,
            );
        };
        let off = difference(left, (least, most));
        if off <= TOLERANCE {
            let found =
                format!("{} of {} s are left of the message's expiry", left.as_secs(), EXPIRY.as_secs());
            return self.findings.add(Verdict::Ok, STEP, None, &found, "");
        }
        let found = format!(
            "{} s of {} s are left of the message's expiry, which is off by {} s",
            left.as_secs(),
            EXPIRY.as_secs(),
            off.as_secs()
        );
        let advice = "the clocks of the server's nodes differ, or its clock was set: synchronise them by NTP";
        self.findings.add(Verdict::Warn, STEP, None, &found, advice)
    }

    /// A connection with a subscription; `None` after a failure, which has been told.
    async fn subscribe(
        &mut self,
        step: &str,
        topic: &str,
        qos: Qos,
    ) -> Result<Option<(Client, Subscription)>, Failure> {
        let since = Instant::now();
        let client = match Client::connect(self.options.clone()).await {
            Ok(client) => client,
            Err(error) => {
                self.findings.add_error(step, &error.to_string())?;
                return Ok(None);
            }
        };
        match client.subscribe(topic, qos).await {
            Ok(stream) => {
                if step == "subscribe" {
                    let found = format!("{topic} with QoS {}", stream.granted().bits());
                    self.findings.add(Verdict::Ok, step, Some(since.elapsed()), &found, "")?;
                }
                Ok(Some((client, stream)))
            }
            Err(error) => {
                let found = format!("subscribe {topic}: {error}");
                let advice = if matches!(error, Error::Refused { .. }) { ACCESS } else { "" };
                self.findings.add(Verdict::Fail, step, None, &found, advice)?;
                client.disconnect().await;
                Ok(None)
            }
        }
    }
}

/// The message with this payload, if it comes in time.
async fn arrival(stream: &mut Subscription, payload: &[u8]) -> Option<Message> {
    let arrived = async {
        loop {
            let message = stream.next().await?;
            if message.payload() == payload {
                return Some(message);
            }
        }
    };
    timeout(ARRIVAL, arrived).await.ok().flatten()
}

/// How far the time that is left of [`EXPIRY`] is off, if it was counted down for at least and at most this long.
fn difference(left: Duration, (least, most): (Duration, Duration)) -> Duration {
    let (shortest, longest) = (EXPIRY.saturating_sub(most), EXPIRY.saturating_sub(least));
    shortest.saturating_sub(left).max(left.saturating_sub(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_the_passed_time_does_not_explain() {
        let seconds = Duration::from_secs;
        let passed = (seconds(1), seconds(5));
        for (left, off) in [(299, 0), (295, 0), (300, 1), (290, 5), (360, 61), (0, 295)] {
            assert_eq!(difference(seconds(left), passed), seconds(off), "{left}");
        }
    }
}
