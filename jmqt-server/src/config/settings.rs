//! Raw settings: a file, overridden by the environment, read with the `config` crate, and asked for
//! by key and type.
//!
//! Not here: which keys there are (`keys`), what their ranges are and what they mean together
//! (`config`).

use std::cell::RefCell;
use std::collections::HashMap;
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
///
/// A value that is wrong is noted when it is asked for, and something that contradicts nothing takes its place: all
/// mistakes of a file are reported at once.
pub(super) struct Settings {
    values: Map<String, Value>,
    /// Where values are from that are not from the environment. `None`: there is no file.
    file: Option<Origin>,
    /// On which line of the file a key is, from 1.
    lines: HashMap<String, usize>,
    unknown_variables: Vec<String>,
    problems: RefCell<Vec<ConfigError>>,
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
        let mut problems = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            let Some(key) = KEYS.into_iter().find(|key| *key == name) else {
                match unknown_variable(name) {
                    Ok(variable) => unknown_variables.push(variable),
                    Err(problem) => problems.push(problem),
                }
                continue;
            };
            let Ok(value) = value.into_string() else {
                problems.push(ConfigError::BadValue {
                    origin: Origin::Environment,
                    key,
                    found: "not UTF-8".to_owned(),
                    expected: "text".to_owned(),
                });
                continue;
            };
            let origin = format!("{PREFIX}{key}");
            builder = builder
                .set_override(key, Value::new(Some(&origin), value))
                .expect("a key is a valid path of one step");
        }
        if let Some(SourceText { text, .. }) = source {
            builder = builder.add_source(config::File::from_str(text, FileFormat::Toml));
        }
        let values = match builder.build().and_then(|config| config.collect()) {
            Ok(values) => values,
            Err(error) => {
                let (origin, text) =
                    source.map_or((Origin::Default, ""), |source| (source.origin.clone(), source.text));
                problems.push(syntax_error(&origin, text, &error));
                return Err(ConfigError::all(problems));
            }
        };
        unknown_variables.sort();
        let settings = Self {
            values,
            file: source.map(|source| source.origin.clone()),
            lines: source.map(|source| lines_of_keys(source.text)).unwrap_or_default(),
            unknown_variables,
            problems: RefCell::new(problems),
        };
        settings.note_unknown_keys();
        Ok(settings)
    }

    fn note_unknown_keys(&self) {
        let mut unknown: Vec<_> = self.values.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
        unknown.sort_by_key(|key| (self.lines.get(key.as_str()), key.as_str()));
        for key in unknown {
            self.note(ConfigError::UnknownKey {
                origin: self.origin(key),
                key: key.escape_debug().to_string(),
                suggestion: nearest(key),
            });
        }
    }

    /// Notes a mistake; whoever asked goes on, to find the others.
    pub(super) fn note(&self, problem: ConfigError) {
        self.problems.borrow_mut().push(problem);
    }

    /// `value`, or, if that is a mistake, a note of it and `instead`.
    fn noted<T>(&self, value: Result<T, ConfigError>, instead: T) -> T {
        value.unwrap_or_else(|problem| {
            self.note(problem);
            instead
        })
    }

    /// Whether there is a file, so that a port it leaves out is left out on purpose.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether the key has no value, or an empty text.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        match self.values.get(key).map(|value| &value.kind) {
            None => true,
            Some(ValueKind::String(text)) => text.is_empty(),
            Some(_) => false,
        }
    }

    /// `JMQT_` variables that are no keys of ours, sorted, if there was no mistake.
    pub(super) fn into_unknown_variables(self) -> Result<Vec<String>, ConfigError> {
        let problems = self.problems.into_inner();
        if problems.is_empty() { Ok(self.unknown_variables) } else { Err(ConfigError::all(problems)) }
    }

    /// Where the key's value is from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        match self.values.get(key) {
            None => Origin::Default,
            Some(value) if value.origin().is_some() => Origin::Environment,
            Some(_) => {
                let line = self.lines.get(key).copied().unwrap_or_default();
                self.file.as_ref().map_or(Origin::Default, |file| file.at_line(line))
            }
        }
    }

    /// An integer, quoted or not.
    pub(super) fn integer(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.values.get(key) else {
            return default;
        };
        let number = match &value.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| range.contains(number)).unwrap_or_else(|| {
            let (least, most) = range.into_inner();
            self.note(self.bad_value(key, format!("an integer from {least} to {most}")));
            default
        })
    }

    /// An integer that fits a `usize`, as all ranges that are asked for do.
    pub(super) fn size(&self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let (least, most) = range.into_inner();
        let number = self.integer(key, default as u64, least as u64..=most as u64);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// An integer, taken as seconds.
    pub(super) fn seconds(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.integer(key, default, range))
    }

    /// A port; 0 for any free one. `None` if it was left out: with a file, by saying nothing of it,
    /// and in any case by an empty value.
    pub(super) fn port(&self, key: &'static str, default: u16) -> Option<u16> {
        let given = match self.values.get(key).map(|value| &value.kind) {
            None => return (!self.has_file()).then_some(default),
            Some(ValueKind::String(text)) if text.is_empty() => return None,
            Some(ValueKind::I64(number)) => u16::try_from(*number).ok(),
            Some(ValueKind::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        if given.is_none() {
            const EXPECTED: &str =
                "a port from 0 to 65535 (0: any free one; empty or left out: no such listener)";
            self.note(self.bad_value(key, EXPECTED));
        }
        // In place of a mistake, one that nobody else can want.
        given.or(Some(0))
    }

    /// A switch.
    pub(super) fn switch(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.values.get(key) else {
            return default;
        };
        let word = match &value.kind {
            ValueKind::Boolean(on) => return *on,
            ValueKind::I64(number) => number.to_string(),
            ValueKind::String(text) => text.trim().to_ascii_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "1" | "true" | "yes" | "on" => true,
            "0" | "false" | "no" | "off" => false,
            _ => {
                self.note(self.bad_value(key, "true or false"));
                default
            }
        }
    }

    /// Text, as it stands.
    pub(super) fn text<'s>(&'s self, key: &'static str, default: &'s str) -> &'s str {
        match self.values.get(key).map(|value| &value.kind) {
            None => default,
            Some(ValueKind::String(text)) => text,
            Some(_) => {
                self.note(self.bad_value(key, "text in quotes"));
                default
            }
        }
    }

    /// A file's path, or `None` if the text is empty.
    pub(super) fn path(&self, key: &'static str, default: &str) -> Option<PathBuf> {
        let text = self.text(key, default);
        if text.contains('\0') {
            self.note(self.bad_value(key, "the path of a file"));
            return None;
        }
        if text == "~" || text.starts_with("~/") {
            const EXPECTED: &str = "a path without `~`, which only shells replace: write the whole path";
            self.note(self.bad_value(key, EXPECTED));
            return None;
        }
        (!text.is_empty()).then(|| Path::new(text).to_owned())
    }

    /// One of a few words, however they are spelt; `expected` lists them.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, default: T, choices: &[(&'static str, T)]) -> T {
        let word = match self.values.get(key).map(|value| &value.kind) {
            None => return default,
            Some(ValueKind::String(text)) => text.trim(),
            Some(_) => "",
        };
        let choice = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
        choice.map(|(_, choice)| *choice).unwrap_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.note(self.bad_value(key, format!("one of {}", names.join(", "))));
            default
        })
    }

    /// A list of texts, or one text with commas between its items; empty if it is left out. `expected`
    /// says what the items are.
    pub(super) fn list<T: FromStr>(&self, key: &'static str, expected: &str) -> Vec<T> {
        self.noted(self.parsed_list(key, expected), Vec::new())
    }

    fn parsed_list<T: FromStr>(&self, key: &'static str, expected: &str) -> Result<Vec<T>, ConfigError> {
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
fn syntax_error(origin: &Origin, text: &str, error: &config::ConfigError) -> ConfigError {
    let complaint = match error {
        config::ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    let Some(place) = complaint.strip_prefix("TOML parse error at line ") else {
        return ConfigError::Syntax { origin: origin.clone(), key: None, problem: complaint };
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
    ConfigError::Syntax { origin: origin.at_line(line), key, problem }
}

/// On which line each key is given its value, from 1; the first, if it looks as if there were several.
fn lines_of_keys(text: &str) -> HashMap<String, usize> {
    let mut lines = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start_matches(['\u{feff}', ' ', '\t', '[', '"', '\'']);
        let end = line.find(|letter: char| !(letter.is_ascii_alphanumeric() || "_-".contains(letter)));
        let key = &line[..end.unwrap_or(line.len())];
        if !key.is_empty() {
            lines.entry(key.to_owned()).or_insert(index + 1);
        }
    }
    lines
}

/// The key that is given a value on this line, counted from 1.
fn key_on_line(text: &str, line: usize) -> Option<String> {
    let (key, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    let key = key.trim();
    KEYS.contains(&key).then(|| key.to_owned())
}
