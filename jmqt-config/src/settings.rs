//! Known keys with their values, asked for by key and type.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::hash::{Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::error::{ConfigError, Origin};
use crate::keys::{Keys, Variables};
use crate::value::{Value, quoted};

/// Known keys with unchecked values.
///
/// A wrong value is noted when it is asked for, and something that contradicts nothing is used instead: all mistakes
/// of a file are reported at once.
#[derive(Debug)]
pub struct Settings {
    keys: Keys,
    values: HashMap<&'static str, Given>,
    has_file: bool,
    /// On which line each key of a section is given its value.
    section_lines: HashMap<(String, String), usize>,
    unknown_variables: Vec<String>,
    problems: RefCell<Vec<ConfigError>>,
}

/// A value, and where it was found.
#[derive(Debug)]
struct Given {
    value: Value,
    origin: Origin,
}

impl Settings {
    /// Without a value.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            values: HashMap::new(),
            has_file: false,
            section_lines: HashMap::new(),
            unknown_variables: Vec::new(),
            problems: RefCell::default(),
        }
    }

    /// The `KEY = value` lines of `text`, if there is one, and the environment over them. `environment` holds all
    /// variables; those without the prefix of the keys are left out.
    ///
    /// # Errors
    /// The text is not made of such lines: the error also tells what is wrong with the variables.
    pub fn read(
        keys: Keys,
        text: Option<(&Origin, &str)>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Self::new(keys);
        settings.add_variables(environment);
        if let Some((origin, text)) = text {
            settings.has_file = true;
            if let Err(problem) = settings.add_text(origin, text) {
                settings.note(problem);
                return Err(ConfigError::all(settings.problems.into_inner()));
            }
        }
        Ok(settings)
    }

    /// Reads `path`, or the defaults if there is none, and the environment over it.
    ///
    /// # Errors
    /// The file cannot be read, or is not made of `KEY = value` lines.
    pub fn load(
        keys: Keys,
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Self::read(keys, None, environment) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        // Editors of Windows write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let origin = Origin::File { path: path.to_owned(), line: 0 };
        Self::read(keys, Some((&origin, text)), environment)
    }

    fn add_variables(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) {
        let origin = Origin::Environment { prefix: self.keys.prefix };
        let mut files = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix(self.keys.prefix)) else {
                continue;
            };
            let Some(key) = self.keys.find(name) else {
                match self.keys.find_file_of(name) {
                    Some(key) => files.push((key, PathBuf::from(value))),
                    None => self.add_unknown_variable(name),
                }
                continue;
            };
            match value.into_string() {
                Ok(text) => self.add(key, Value::Text(text), origin.clone()),
                Err(_) => self.note(ConfigError::BadValue {
                    origin: origin.clone(),
                    key,
                    found: "not UTF-8".to_owned(),
                    expected: "text".to_owned(),
                }),
            }
        }
        for (key, path) in files {
            self.add_secret_file(key, &path, &origin);
        }
        self.unknown_variables.sort();
    }

    /// Adds the content of a file that a variable names, without the line end, as the value of a secret key.
    fn add_secret_file(&mut self, key: &'static str, path: &Path, origin: &Origin) {
        if self.values.contains_key(key) {
            let problem = format!(
                "{}{key} and {}{key}_FILE are both set: one of them is enough",
                self.keys.prefix, self.keys.prefix
            );
            self.note(ConfigError::Unusable { key, problem });
            return;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.add(key, Value::Text(text.trim_end_matches(['\r', '\n']).to_owned()), origin.clone())
            }
            Err(error) => {
                let problem =
                    format!("cannot read {} ({}{key}_FILE): {error}", path.display(), self.keys.prefix);
                self.note(ConfigError::Unusable { key, problem });
            }
        }
    }

    fn add_unknown_variable(&mut self, name: &str) {
        let prefix = self.keys.prefix;
        match self.keys.nearest(name) {
            None if self.keys.variables == Variables::Shared => {
                self.unknown_variables.push(format!("{prefix}{name}"));
            }
            _ => self.add_unknown(name, Origin::Environment { prefix }),
        }
    }

    fn add_text(&mut self, origin: &Origin, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|error| self.syntax_error(origin, text, &error))?;
        let lines = lines_of_keys(text);
        self.section_lines = lines_of_sections(text);
        for (name, value) in table {
            let origin = origin.at_line(lines.get(&name).copied().unwrap_or_default());
            self.add_value(&name, Value::from_toml(value), origin);
        }
        Ok(())
    }

    /// Adds a value of a file, or notes that there is no such key. A value that is already there, from the environment,
    /// stays.
    pub fn add_value(&mut self, name: &str, value: Value, origin: Origin) {
        match self.keys.find(name) {
            Some(key) if self.values.contains_key(key) => {}
            Some(key) => self.add(key, value, origin),
            None => self.add_unknown(name, origin),
        }
    }

    fn add(&mut self, key: &'static str, value: Value, origin: Origin) {
        self.values.insert(key, Given { value, origin });
    }

    fn add_unknown(&self, name: &str, origin: Origin) {
        let suggestion = self.keys.nearest(name);
        self.note(ConfigError::UnknownKey { origin, key: name.escape_debug().to_string(), suggestion });
    }

    /// The parser's complaint without the line it quotes, which may hold a password.
    fn syntax_error(&self, origin: &Origin, text: &str, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let mut problem = match error.message() {
            // The rest of this message is the number, which may be a password.
            message if message.starts_with("invalid type: integer") => {
                "the number is out of range".to_owned()
            }
            message => message.lines().collect::<Vec<_>>().join(", "),
        };
        let key = self.key_on_line(text, line);
        if key.is_some() && !problem.contains("duplicate") {
            // What `LOG_MODE = INF` gets from the parser is a remark on floating-point numbers.
            problem.push_str(" (text needs quotes; numbers, true and false do not)");
        }
        ConfigError::Syntax { origin: origin.at_line(line), key, problem }
    }

    /// The key that is given a value on this line, counted from 1.
    fn key_on_line(&self, text: &str, line: usize) -> Option<String> {
        let (key, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
        self.keys.find(key.trim()).map(str::to_owned)
    }

    /// Notes a mistake. The program goes on asking, to find the others.
    pub fn note(&self, problem: ConfigError) {
        self.problems.borrow_mut().push(problem);
    }

    /// Notes that a value is not what it should be.
    pub fn note_bad(&self, key: &'static str, expected: impl Into<String>) {
        self.note(self.bad_value(key, expected));
    }

    /// The mistakes so far.
    #[must_use]
    pub fn into_problems(self) -> Vec<ConfigError> {
        self.problems.into_inner()
    }

    /// Variables that have the prefix and are not keys, sorted.
    ///
    /// # Errors
    /// All mistakes, if there was one.
    pub fn finish(self) -> Result<Vec<String>, ConfigError> {
        let problems = self.problems.into_inner();
        if problems.is_empty() { Ok(self.unknown_variables) } else { Err(ConfigError::all(problems)) }
    }

    /// Whether there is a file, so that a key it leaves out is left out on purpose.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// A number for each key with a value, sorted: another value has another number. To compare two
    /// configurations without keeping their secrets.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<(&'static str, u64)> {
        let of = |value: &Value| {
            let mut hasher = std::hash::DefaultHasher::new();
            format!("{value:?}").hash(&mut hasher);
            hasher.finish()
        };
        let mut all: Vec<_> = self.values.iter().map(|(key, given)| (*key, of(&given.value))).collect();
        all.sort_unstable();
        all
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).map(|given| &given.value)
    }

    /// Whether the key has no value, or an empty text.
    #[must_use]
    pub fn is_empty(&self, key: &str) -> bool {
        self.get(key).is_none_or(|value| value.as_text().is_some_and(str::is_empty))
    }

    /// Where the key's value was found.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.values.get(key).map_or(Origin::Default, |given| given.origin.clone())
    }

    /// What `parse` makes of the value. `default` if there is none, or, with a note, if `parse` makes nothing of it;
    /// `expected` says then what would be right.
    pub fn value<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Value) -> Option<T>,
        expected: impl FnOnce() -> String,
    ) -> T {
        let Some(value) = self.get(key) else { return default };
        parse(value).unwrap_or_else(|| {
            self.note_bad(key, expected());
            default
        })
    }

    /// An integer, quoted or not.
    pub fn integer(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.value(
            key,
            default,
            |value| value.as_integer().filter(|number| range.contains(number)),
            || format!("an integer from {} to {}", range.start(), range.end()),
        )
    }

    /// An integer that fits a `usize`, as the ends of the range do.
    pub fn size(&self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let (least, most) = range.into_inner();
        let number = self.integer(key, default as u64, least as u64..=most as u64);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// An integer, taken as seconds.
    pub fn seconds(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.integer(key, default, range))
    }

    /// A switch.
    pub fn switch(&self, key: &'static str, default: bool) -> bool {
        self.value(key, default, Value::as_switch, || "true or false".to_owned())
    }

    /// Text, as it was given.
    pub fn text<'s>(&'s self, key: &'static str, default: &'s str) -> &'s str {
        match self.get(key) {
            None => default,
            Some(Value::Text(text)) => text,
            Some(_) => {
                self.note_bad(key, "text in quotes");
                default
            }
        }
    }

    /// A file's path, or `None` if the text is empty.
    pub fn path(&self, key: &'static str, default: &str) -> Option<PathBuf> {
        let text = self.text(key, default);
        if text.contains('\0') {
            self.note_bad(key, "the path of a file");
            return None;
        }
        if text == "~" || text.starts_with("~/") {
            const EXPECTED: &str = "a path without `~`, which only shells expand: write the full path";
            self.note_bad(key, EXPECTED);
            return None;
        }
        (!text.is_empty()).then(|| Path::new(text).to_owned())
    }

    /// One of a few words, in capitals or not; the error lists them.
    pub fn choice<T: Copy>(&self, key: &'static str, default: T, choices: &[(&'static str, T)]) -> T {
        self.value(
            key,
            default,
            |value| {
                let word = value.as_text()?.trim();
                choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, choice)| *choice)
            },
            || {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                format!("one of {}", names.join(", "))
            },
        )
    }

    /// A list of texts, or one text with commas between its items; empty if it is left out. `expected`
    /// says what the items are.
    pub fn list<T: FromStr>(&self, key: &'static str, expected: &str) -> Vec<T> {
        self.parsed_list(key, expected).unwrap_or_else(|problem| {
            self.note(problem);
            Vec::new()
        })
    }

    fn parsed_list<T: FromStr>(&self, key: &'static str, expected: &str) -> Result<Vec<T>, ConfigError> {
        let items: Option<Vec<&str>> = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Text(text)) if text.trim().is_empty() => return Ok(Vec::new()),
            Some(Value::Text(text)) => Some(text.split(',').collect()),
            Some(Value::List(items)) => items.iter().map(Value::as_text).collect(),
            Some(_) => None,
        };
        let items = items.ok_or_else(|| self.bad_value(key, expected))?;
        let parsed = items.into_iter().map(|item| {
            let wrong = || self.bad_value(key, format!("{expected}; {} is invalid", quoted(item.trim())));
            item.trim().parse().map_err(|_| wrong())
        });
        parsed.collect()
    }

    /// The sections of a kind: `[kind."name"]` with lines below it that have these keys. Empty if there are none. Pass each to
    /// [`note_all`](Self::note_all) when its values have been asked for.
    pub fn sections(&self, kind: &'static str, keys: Keys) -> Vec<(String, Self)> {
        let expected = || format!("sections such as [{kind}.\"name\"]");
        let sections = match self.get(kind) {
            None => return Vec::new(),
            Some(Value::Table(sections)) => sections,
            Some(_) => {
                self.note_bad(kind, expected());
                return Vec::new();
            }
        };
        let section = |(name, value): &(String, Value)| {
            let Value::Table(values) = value else {
                self.note_bad(kind, expected());
                return None;
            };
            let mut settings = Self::new(keys);
            for (key, value) in values {
                let line = self.section_lines.get(&(name.clone(), key.clone())).copied();
                let place = line.map_or_else(|| self.origin(kind), |line| self.origin(kind).at_line(line));
                let section = format!("{kind}.{name:?}");
                settings.add_value(key, value.clone(), Origin::Section { place: Box::new(place), section });
            }
            Some((name.clone(), settings))
        };
        sections.iter().filter_map(section).collect()
    }

    /// Notes the mistakes of a section too.
    pub fn note_all(&self, section: Self) {
        section.into_problems().into_iter().for_each(|problem| self.note(problem));
    }

    /// The error for a value that is not what it should be.
    pub fn bad_value(&self, key: &'static str, expected: impl Into<String>) -> ConfigError {
        let found = match self.get(key) {
            None => "absent".to_owned(),
            Some(_) if self.keys.secret.contains(&key) => "(hidden)".to_owned(),
            Some(value) => value.shown(),
        };
        ConfigError::BadValue { origin: self.origin(key), key, found, expected: expected.into() }
    }

    /// The error for a value that contradicts another one.
    pub fn contradiction(
        &self,
        key: &'static str,
        value: impl ToString,
        problem: impl Into<String>,
    ) -> ConfigError {
        let (origin, found) = (self.origin(key), value.to_string());
        ConfigError::Contradiction { origin, key, found, problem: problem.into() }
    }
}

/// On which line each key is given its value, from 1; the first, if several lines look like that.
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

/// On which line each key of a section such as `[kind."name"]` is given its value, by the section's name, from 1.
fn lines_of_sections(text: &str) -> HashMap<(String, String), usize> {
    let mut lines = HashMap::new();
    let mut section = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split_once('.').and_then(|(_, name)| name.split_once(']'));
            section = name.map(|(name, _)| name.trim().trim_matches(['"', '\'']).to_owned());
        } else if let (Some(section), Some((key, _))) = (&section, line.split_once('=')) {
            let key = key.trim().trim_matches(['"', '\'']).to_owned();
            lines.entry((section.clone(), key)).or_insert(index + 1);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: Keys =
        Keys { known: &["QOS", "CODEC"], also: &[], secret: &[], prefix: "", variables: Variables::Own };
    const KEYS: Keys =
        Keys { known: &["PORT", "topics"], also: &[], secret: &[], prefix: "", variables: Variables::Own };

    fn read(text: &str) -> Settings {
        Settings::read(KEYS, Some((&Origin::Text { line: 0 }, text)), []).unwrap()
    }

    /// All mistakes of a text with sections, as text.
    fn mistakes(text: &str) -> String {
        let settings = read(text);
        for (_, section) in settings.sections("topics", TOPICS) {
            section.integer("QOS", 0, 0..=2);
            settings.note_all(section);
        }
        settings.finish().map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn a_variable_names_the_file_of_a_secret() {
        const KEYS: Keys = Keys {
            known: &["PORT", "PASSWORD"],
            also: &["PORT_FILE"],
            secret: &["PASSWORD"],
            prefix: "JMQT_",
            variables: Variables::Shared,
        };
        let folder = std::env::temp_dir().join(format!("jmqt-config-{}", std::process::id()));
        std::fs::write(&folder, "canary\n").unwrap();
        let read = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            Settings::read(KEYS, Some((&Origin::Text { line: 0 }, "PASSWORD = 'of the file'")), variables)
                .unwrap()
        };
        let path = folder.to_str().unwrap();
        assert_eq!(read(&[("JMQT_PASSWORD_FILE", path)]).text("PASSWORD", ""), "canary");
        assert_eq!(read(&[("JMQT_PORT_FILE", path)]).text("PORT_FILE", ""), path, "that is a key");
        let both = read(&[("JMQT_PASSWORD_FILE", path), ("JMQT_PASSWORD", "canary")])
            .finish()
            .unwrap_err()
            .to_string();
        assert!(both.contains("are both set") && !both.contains("canary"), "{both}");
        let none = read(&[("JMQT_PASSWORD_FILE", "no/such/file")]).finish().unwrap_err().to_string();
        assert!(none.contains("cannot read no/such/file (JMQT_PASSWORD_FILE)"), "{none}");
        std::fs::remove_file(folder).unwrap();
    }

    #[test]
    fn sections_have_names_and_values_of_their_own() {
        let settings = read("PORT = 1\n[topics.\"a/b\"]\nQOS = 1\n[topics.'#']\nCODEC = 'json'");
        let sections = settings.sections("topics", TOPICS);
        let shown: Vec<_> =
            sections.iter().map(|(name, of)| (name.as_str(), of.integer("QOS", 7, 0..=9))).collect();
        assert_eq!(shown, [("#", 7), ("a/b", 1)]);
        assert_eq!(sections[0].1.text("CODEC", ""), "json");
        assert!(read("PORT = 1").sections("topics", TOPICS).is_empty());
    }

    #[test]
    fn a_mistake_in_a_section_is_named_with_line_section_and_key() {
        assert_eq!(
            mistakes("PORT = 1\n[topics.\"a/b\"]\n\nQOS = 3"),
            "configuration text, line 4, [topics.\"a/b\"]: QOS is 3; expected an integer from 0 to 2"
        );
        let unknown = mistakes("[topics.\"a\"]\nQSO = 1\nPORT = 1");
        assert!(
            unknown.contains("line 2, [topics.\"a\"]: QSO: there is no such key; did you mean QOS?"),
            "{unknown}"
        );
        assert!(
            unknown.contains("line 3, [topics.\"a\"]: PORT: there is no such key in a section"),
            "{unknown}"
        );
        assert!(mistakes("topics = 1").contains("expected sections such as [topics.\"name\"]"));
        assert!(mistakes("[topics]\na = 1").contains("expected sections such as"));
    }
}
