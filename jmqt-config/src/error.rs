//! Why a configuration cannot be used, with what the operator needs to correct it.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 if it is not known.
        line: usize,
    },
    /// In text that the application gave.
    Text {
        /// The line, from 1; 0 if it is not known.
        line: usize,
    },
    /// In an environment variable.
    Environment {
        /// What the names of the program's variables begin with.
        prefix: &'static str,
    },
    /// In a section of a file or text.
    Section {
        /// The file or text, and the line.
        place: Box<Origin>,
        /// The section's name, as in `[topics."a/b"]`.
        section: String,
    },
    /// Nowhere: the value is the default.
    Default,
}

impl Origin {
    /// The same file or text, at this line.
    #[must_use]
    pub fn at_line(&self, line: usize) -> Self {
        match self {
            Self::File { path, .. } => Self::File { path: path.clone(), line },
            Self::Text { .. } => Self::Text { line },
            Self::Section { place, section } => {
                Self::Section { place: Box::new(place.at_line(line)), section: section.clone() }
            }
            Self::Environment { .. } | Self::Default => self.clone(),
        }
    }

    /// The line, if there is one and it is known.
    fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } | Self::Text { line } => Some(*line),
            Self::Section { place, .. } => place.line(),
            Self::Environment { .. } | Self::Default => None,
        }
    }

    /// `key` by its name in that place, and the place.
    fn locate(&self, key: &str) -> String {
        match self {
            Self::File { .. } | Self::Text { .. } | Self::Section { .. } => format!("{self}: {key}"),
            Self::Environment { prefix } => format!("environment variable {prefix}{key}"),
            Self::Default => format!("{key}, by default,"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}{}", path.display(), at(*line)),
            Self::Text { line } => write!(f, "configuration text{}", at(*line)),
            Self::Section { place, section } => write!(f, "{place}, [{section}]"),
            Self::Environment { .. } => f.write_str("environment"),
            Self::Default => f.write_str("defaults"),
        }
    }
}

/// Why a configuration cannot be used. Its text is meant for the operator and never contains a password, a token or
/// auth data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line has the wrong form.
    #[error("{origin}{}: {problem}", in_key(key.as_ref()))]
    Syntax {
        /// The file and the line.
        origin: Origin,
        /// The key on that line, if it has one.
        key: Option<String>,
        /// What is wrong there.
        problem: String,
    },
    /// The program has no such key.
    #[error("{}: there is no such key{}", origin.locate(key), did_you_mean(origin, *suggestion))]
    UnknownKey {
        /// Where the key was found.
        origin: Origin,
        /// The key, without the prefix of environment variables.
        key: String,
        /// The key that was probably meant.
        suggestion: Option<&'static str>,
    },
    /// The value has the wrong type, or is out of range.
    #[error("{} is {found}; expected {expected}", origin.locate(key))]
    BadValue {
        /// Where the value was found.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// The value, or `(hidden)`.
        found: String,
        /// What a correct value is.
        expected: String,
    },
    /// The value is correct by itself but contradicts another one.
    #[error("{} is {found}; {problem}", origin.locate(key))]
    Contradiction {
        /// Where the value was found.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// The value.
        found: String,
        /// What it contradicts.
        problem: String,
    },
    /// A key that another setting requires has no value.
    #[error("{key} has no value, and {because}")]
    Missing {
        /// The key.
        key: &'static str,
        /// The setting that requires it.
        because: &'static str,
    },
    /// The settings together leave the program nothing to do.
    #[error("{problem}")]
    Incomplete {
        /// What is missing, and how to give it.
        problem: &'static str,
    },
    /// A value that was set in code cannot work.
    #[error("{key} (`Config::{field}`) is {found}; expected {expected}", key = field.to_uppercase())]
    BadField {
        /// The field of the program's `Config`.
        field: &'static str,
        /// The value.
        found: String,
        /// What a correct value is.
        expected: String,
    },
    /// A setting needs a cargo feature that this program was built without.
    #[error(
        "{key} needs the cargo feature `{feature}` of {package}, but this program was built without it: add it to \
         `features` of {package} in Cargo.toml and build again, or change the setting"
    )]
    MissingFeature {
        /// The key.
        key: &'static str,
        /// The feature.
        feature: &'static str,
        /// The crate that has the feature.
        package: &'static str,
    },
    /// A file, folder or address that a setting names cannot be used.
    #[error("{key}: {problem}")]
    Unusable {
        /// The key.
        key: &'static str,
        /// The cause, and what to do.
        problem: String,
    },
    /// More than one mistake, one line each.
    #[error("the configuration has {} mistakes:{}", problems.len(), list(problems))]
    Several {
        /// The mistakes, at least two.
        problems: Vec<ConfigError>,
    },
}

impl ConfigError {
    /// One error for at least one mistake, in the order of the file.
    #[must_use]
    pub fn all(mut problems: Vec<Self>) -> Self {
        problems.sort_by_key(|problem| problem.line().unwrap_or(usize::MAX));
        match problems.pop() {
            Some(only) if problems.is_empty() => only,
            last => {
                problems.extend(last);
                Self::Several { problems }
            }
        }
    }

    fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::BadValue { origin, .. }
            | Self::Contradiction { origin, .. } => origin.line(),
            _ => None,
        }
    }
}

fn list(problems: &[ConfigError]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

fn at(line: usize) -> String {
    if line == 0 { String::new() } else { format!(", line {line}") }
}

fn in_key(key: Option<&String>) -> String {
    key.map(|key| format!(" ({key})")).unwrap_or_default()
}

fn did_you_mean(origin: &Origin, suggestion: Option<&str>) -> String {
    let prefix = match (origin, suggestion) {
        (Origin::Section { .. }, None) => {
            return " in a section; keys of the whole file stand above the first section".to_owned();
        }
        (Origin::Environment { prefix }, _) => prefix,
        _ => "",
    };
    suggestion.map(|key| format!("; did you mean {prefix}{key}?")).unwrap_or_default()
}
