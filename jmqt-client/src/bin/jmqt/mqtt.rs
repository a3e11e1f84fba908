//! `jmqt pub` and `jmqt sub` with an MQTT server: `--url mqtt://host`.

use std::io::{Read as _, Write as _};

use jmqt_client::mqtt::{
    Client, ConnectError, Error, Event, Message, Options, Publish, Qos, Server, Version,
};
use serde_json::json;

use crate::arguments::{Arguments, Command, ConnectionArguments, Input};
use crate::terminal::printed;
use crate::{Failure, Output, note, random_name};

/// Whether the options name an MQTT server.
pub(crate) fn is_meant(connection: &ConnectionArguments) -> bool {
    connection.url.as_deref().is_some_and(Server::is_url)
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = Output { json: arguments.connection.json };
    let options = options(&arguments.connection)?;
    match arguments.command {
        Command::Pub { channel, input } => publish(options, &channel, &input, output).await,
        Command::Sub { persistent: true, .. }
        | Command::Sub { time: true, .. }
        | Command::Sub { format: Some(_), .. } => {
            Err(Failure::usage("with an MQTT server `jmqt sub` has no --persistent, --time and --format"))
        }
        Command::Sub { channels, filters, count, headers, .. } => {
            subscribe(options, &[channels, filters].concat(), (count, headers), output).await
        }
        _ => Err(Failure::usage("with an MQTT server there are only `jmqt pub` and `jmqt sub`")),
    }
}

fn options(connection: &ConnectionArguments) -> Result<Options, Failure> {
    let url = connection.url.as_deref().unwrap_or_default();
    let mut options = Options::url(url).map_err(Failure::usage)?;
    if connection.auth.is_some() || connection.token.is_some() || connection.token_file.is_some() {
        return Err(Failure::usage("MQTT has no auth data and tokens: use mqtt://user:password@host"));
    }
    options.client_id = match &connection.name {
        Some(name) => name.clone(),
        None => random_name()?,
    };
    if connection.v3 {
        options.version = Version::V3_1_1;
    }
    let tls = &mut options.tls;
    tls.ca_path.clone_from(&connection.ca);
    tls.cert_path.clone_from(&connection.cert);
    tls.key_path.clone_from(&connection.key);
    tls.server_name.clone_from(&connection.server_name);
    if connection.insecure {
        tls.accept_any_certificate = true;
        note(format_args!(
            "WARNING: --insecure: the server's certificate is not checked. Anybody on the way can be the server, and read \
             and change everything, passwords included"
        ));
    }
    Ok(options)
}

async fn publish(options: Options, topic: &str, input: &Input, output: Output) -> Result<(), Failure> {
    if input.lines || input.template || input.clear || input.count > 1 || input.wait_reply.is_some() {
        return Err(Failure::usage(
            "with an MQTT server `jmqt pub` publishes one message: as text, --file or --stdin",
        ));
    }
    let payload = match (&input.message, &input.file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) => {
            std::fs::read(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?
        }
        (None, None) => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes)?;
            bytes
        }
    };
    let qos = if input.qos == 1 { Qos::AtLeastOnce } else { Qos::AtMostOnce };
    let message = Publish::new(topic, payload)?.qos(qos);
    let message = if input.retained { message.retained() } else { message };
    let client = Client::connect(options).await?;
    let published = client.publish(&message).await;
    client.disconnect().await;
    let reason = published.map_err(|error| Failure::from(error).of(format_args!("pub {topic}")))?;
    if output.json {
        output.line(String::new, || json!({ "published": 1, "reason": reason.code() }))?;
    }
    Ok(())
}

async fn subscribe(
    options: Options,
    filters: &[String],
    (count, headers): (Option<u64>, bool),
    output: Output,
) -> Result<(), Failure> {
    let client = Client::connect(options).await?;
    let mut events = client.events();
    // One stream for all filters: what has no stream of its own.
    let mut messages = client.messages().acknowledge_by_hand();
    for filter in filters {
        let subscribed = client.subscribe(filter, Qos::ExactlyOnce).await;
        subscribed.map_err(|error| Failure::from(error).of(format_args!("sub {filter}")))?.detach();
    }
    let mut left = count;
    while left != Some(0) {
        tokio::select! {
            biased;
            message = messages.next() => {
                let Some(message) = message else {
                    return Err(client.ended().unwrap_or(Error::Closed).into());
                };
                show(&message, headers, output)?;
                client.acknowledge(&message);
                left = left.map(|left| left - 1);
            }
            event = events.next() => match event {
                Some(Event::Disconnected { reason }) => note(format_args!("disconnected: {reason}")),
                Some(Event::Connected { .. }) => note(format_args!("connected again")),
                Some(Event::SubscriptionLost { filter, error }) => {
                    return Err(Failure::from(error).of(format_args!("sub {filter}")));
                }
                _ => {}
            },
        }
    }
    client.disconnect().await;
    Ok(())
}

/// The payload as it came, and a line break; for programs text, or numbers where it is no text.
fn show(message: &Message, headers: bool, output: Output) -> Result<(), Failure> {
    let (topic, qos, retained) = (message.topic(), message.qos().bits(), message.is_retained());
    match message.text() {
        Err(_) if !output.json => {
            let mut stdout = std::io::stdout().lock();
            let head = if headers { format!("{topic} (QOS {qos}): ") } else { String::new() };
            write!(stdout, "{head}")?;
            stdout.write_all(message.payload())?;
            writeln!(stdout)?;
            stdout.flush()?;
            Ok(())
        }
        text => output.line(
            || {
                let text = text.unwrap_or_default();
                printed(if headers { format!("{topic} (QOS {qos}): {text}") } else { text.to_owned() })
            },
            || match text {
                Ok(text) => json!({ "topic": topic, "qos": qos, "retained": retained, "payload": text }),
                Err(_) => {
                    json!({ "topic": topic, "qos": qos, "retained": retained, "bytes": message.payload() })
                }
            },
        ),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused { .. } => Self::refused(error),
            Error::InvalidTopic { .. } => Self::usage(error),
            Error::Stopped(_) | Error::Closed | Error::Timeout { .. } => Self::disconnected(error),
            _ => Self::new(error),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Reach(error) => error.into(),
            ConnectError::Refused { .. } => Self::refused(error),
            _ => Self::disconnected(error),
        }
    }
}
