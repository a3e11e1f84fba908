//! Raw settings: a file, overridden by the environment, read with the `config` crate, and asked for
//! by key and type.
//!
//! Not here: which keys there are (`keys`), what their ranges are and what they mean together
//! (`config`).

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use config::{FileFormat, Map, Source, Value, ValueKind};

use super::error::{ConfigError, Origin};
use super::keys::{KEYS, SECRETS, nearest};

/// What every variable that concerns this server begins with.
const PREFIX: &str = "JMQT_";

/// The `KEY = value` lines, as text, and where they are from.
pub(super) struct SourceText<'a> {
    pub(super) origin: Origin,
    pub(super) text: &'a str,
}

/// Known keys with unchecked values.
pub(super) struct Settings {
    values: Map<String, Value>,
    /// Where values are from that are not from the environment. `None`: there is no file.
    file: Option<Origin>,
    unknown_variables: Vec<String>,
}

impl Settings {
    /// Reads both sources. `environment` is all of it: what does not begin with `JMQT_` is left out
    /// here.
    pub(super) fn read(
        source: Option<&SourceText<'_>>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        // The crate's own environment source lower-cases names and so never meets the keys of the
        // file; overrides keep them as they are.
        let mut builder = config::Config::builder();
        let mut unknown_variables = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            let Some(key) = KEYS.into_iter().find(|key| *key == name) else {
                unknown_variables.push(unknown_variable(name)?);
                continue;
            };
            let value = value.into_string().map_err(|_| ConfigError::BadValue {
                origin: Origin::Environment,
                key,
                found: "not UTF-8".to_owned(),
                expected: "text".to_owned(),
            })?;
            let origin = format!("{PREFIX}{key}");
            builder = builder
                .set_override(key, Value::new(Some(&origin), value))
                .expect("a key is a valid path of one step");
        }
        if let Some(SourceText { text, .. }) = source {
            builder = builder.add_source(config::File::from_str(text, FileFormat::Toml));
        }
        let values = builder.build().and_then(|config| config.collect()).map_err(|error| {
            let (origin, text) =
                source.map_or((Origin::Default, ""), |source| (source.origin.clone(), source.text));
            syntax_error(origin, text, &error)
        })?;
        unknown_variables.sort();
        let settings = Self { values, file: source.map(|source| source.origin.clone()), unknown_variables };
        settings.refuse_unknown_keys()?;
        Ok(settings)
    }

    fn refuse_unknown_keys(&self) -> Result<(), ConfigError> {
        let mut unknown: Vec<_> = self.values.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
        unknown.sort();
        match unknown.first() {
            None => Ok(()),
            Some(key) => Err(ConfigError::UnknownKey {
                origin: self.origin(key),
                key: key.escape_debug().to_string(),
                suggestion: nearest(key),
            }),
        }
    }

    /// Whether there is a file, so that a port it leaves out is left out on purpose.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether the key has been given.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// `JMQT_` variables that are no keys of ours, sorted.
    pub(super) fn into_unknown_variables(self) -> Vec<String> {
        self.unknown_variables
    }

    /// Where the key's value is from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        match self.values.get(key) {
            None => Origin::Default,
            Some(value) if value.origin().is_some() => Origin::Environment,
            Some(_) => self.file.clone().unwrap_or(Origin::Default),
        }
    }

    /// An integer, quoted or not.
    pub(super) fn integer(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let Some(value) = self.values.get(key) else {
            return Ok(default);
        };
        let number = match &value.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (least, most) = range.into_inner();
            self.bad_value(key, format!("an integer from {least} to {most}"))
        })
    }

    /// An integer that fits a `usize`, as all ranges that are asked for do.
    pub(super) fn size(
        &self,
        key: &'static str,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let (least, most) = range.into_inner();
        let number = self.integer(key, default as u64, least as u64..=most as u64)?;
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// An integer, taken as seconds.
    pub(super) fn seconds(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, ConfigError> {
        self.integer(key, default, range).map(Duration::from_secs)
    }

    /// A port; 0 for any free one. `None` if it was left out: with a file, by saying nothing of it,
    /// and in any case by an empty value.
    pub(super) fn port(&self, key: &'static str, default: u16) -> Result<Option<u16>, ConfigError> {
        let given = match self.values.get(key).map(|value| &value.kind) {
            None => return Ok((!self.has_file()).then_some(default)),
            Some(ValueKind::String(text)) if text.is_empty() => return Ok(None),
            Some(ValueKind::I64(number)) => u16::try_from(*number).ok(),
            Some(ValueKind::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        match given {
            Some(port) => Ok(Some(port)),
            None => Err(self.bad_value(
                key,
                "a port from 0 to 65535 (0: any free one; empty or left out: no such listener)",
            )),
        }
    }

    /// A switch.
    pub(super) fn switch(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.values.get(key) else {
            return Ok(default);
        };
        let word = match &value.kind {
            ValueKind::Boolean(on) => return Ok(*on),
            ValueKind::I64(number) => number.to_string(),
            ValueKind::String(text) => text.trim().to_ascii_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(self.bad_value(key, "true or false")),
        }
    }

    /// Text, as it stands.
    pub(super) fn text<'s>(&'s self, key: &'static str, default: &'s str) -> Result<&'s str, ConfigError> {
        match self.values.get(key).map(|value| &value.kind) {
            None => Ok(default),
            Some(ValueKind::String(text)) => Ok(text),
            Some(_) => Err(self.bad_value(key, "text in quotes")),
        }
    }

    /// A file's path, or `None` if the text is empty.
    pub(super) fn path(&self, key: &'static str, default: &str) -> Result<Option<PathBuf>, ConfigError> {
        let text = self.text(key, default)?;
        if text.contains('\0') {
            return Err(self.bad_value(key, "the path of a file"));
        }
        Ok((!text.is_empty()).then(|| Path::new(text).to_owned()))
    }

    /// One of a few words, however they are spelt; `expected` lists them.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&'static str, T)],
    ) -> Result<T, ConfigError> {
        if !self.is_given(key) {
            return Ok(default);
        }
        let word = self.text(key, "").unwrap_or_default().trim();
        choices
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, choice)| *choice)
            .ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.bad_value(key, format!("one of {}", names.join(", ")))
            })
    }

    /// A list of texts, or one text with commas between its items; empty if it is left out. `expected`
    /// says what the items are.
    pub(super) fn list<T: FromStr>(&self, key: &'static str, expected: &str) -> Result<Vec<T>, ConfigError> {
        let items: Option<Vec<&str>> = match self.values.get(key).map(|value| &value.kind) {
            None => return Ok(Vec::new()),
            Some(ValueKind::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
            Some(ValueKind::String(text)) => Some(text.split(',').collect()),
            Some(ValueKind::Array(items)) => items.iter().map(text_of).collect(),
            Some(_) => None,
        };
        let items = items.ok_or_else(|| self.bad_value(key, expected))?;
        let parsed = items.into_iter().map(|item| {
            let wrong = || self.bad_value(key, format!("{expected}, which {} is not", quoted(item.trim())));
            item.trim().parse().map_err(|_| wrong())
        });
        parsed.collect()
    }

    /// The error for a value that is not what it should be.
    pub(super) fn bad_value(&self, key: &'static str, expected: impl Into<String>) -> ConfigError {
        ConfigError::BadValue {
            origin: self.origin(key),
            key,
            found: self.shown(key),
            expected: expected.into(),
        }
    }

    /// The error for a value that does not go together with another one.
    pub(super) fn contradiction(
        &self,
        key: &'static str,
        value: impl ToString,
        problem: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Contradiction {
            origin: self.origin(key),
            key,
            found: value.to_string(),
            problem: problem.into(),
        }
    }

    /// The value as it may be shown.
    fn shown(&self, key: &str) -> String {
        let Some(value) = self.values.get(key) else {
            return "absent".to_owned();
        };
        match &value.kind {
            _ if SECRETS.contains(&key) => "(hidden)".to_owned(),
            ValueKind::String(text) => quoted(text),
            ValueKind::Array(_) => "a list".to_owned(),
            ValueKind::Table(_) => "a table".to_owned(),
            _ => value.to_string(),
        }
    }
}

/// Text as it may be shown, cut off if it is long.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() > LONGEST {
        return format!("{:?}...", text.chars().take(LONGEST).collect::<String>());
    }
    format!("{text:?}")
}

fn text_of(value: &Value) -> Option<&str> {
    match &value.kind {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// A variable that is no key may be the application's own; one that is a key but for a slip of the
/// pen is a mistake that must not pass unseen.
fn unknown_variable(name: &str) -> Result<String, ConfigError> {
    match nearest(name) {
        None => Ok(format!("{PREFIX}{name}")),
        suggestion => Err(ConfigError::UnknownKey {
            origin: Origin::Environment,
            key: name.escape_debug().to_string(),
            suggestion,
        }),
    }
}

/// The parser's complaint without the line it quotes, which may hold a password.
fn syntax_error(origin: Origin, text: &str, error: &config::ConfigError) -> ConfigError {
    let complaint = match error {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    let Some(place) = complaint.strip_prefix("TOML parse error at line ") else {
        return ConfigError::Syntax { origin, line: 0, key: None, problem: complaint };
    };
    let line: usize = place.split(',').next().and_then(|line| line.parse().ok()).unwrap_or(0);
    // "3 | the line itself" and "  |   ^^^" are the quotation.
    let is_said =
        |line: &&str| !line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    let said: Vec<_> = place.lines().skip(1).filter(is_said).collect();
    let mut problem = said.join(", ");
    let key = key_on_line(text, line);
    if key.is_some() && !problem.contains("duplicate") {
        // What `LOG_MODE = INF` gets from the parser is a remark on floating-point numbers.
        problem.push_str(" (text stands in quotes; numbers, true and false do not)");
    }
    ConfigError::Syntax { origin, line, key, problem }
}

/// The key that is given a value on this line, counted from 1.
fn key_on_line(text: &str, line: usize) -> Option<String> {
    let (key, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    let key = key.trim();
    KEYS.contains(&key).then(|| key.to_owned())
}
