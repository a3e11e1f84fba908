//! A value as it was given, before its type is checked.

/// A value as it was given. Environment variables and the load balancer's file give text only.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Text.
    Text(String),
    /// A number without quotes.
    Integer(i64),
    /// `true` or `false` without quotes.
    Boolean(bool),
    /// A list.
    List(Vec<Value>),
    /// Names with values: a section, or the sections of one kind.
    Table(Vec<(String, Value)>),
    /// Something that no key takes, in words: a date, a number with decimals.
    Other(String),
}

impl Value {
    pub(crate) fn from_toml(value: toml::Value) -> Self {
        match value {
            toml::Value::String(text) => Self::Text(text),
            toml::Value::Integer(number) => Self::Integer(number),
            toml::Value::Boolean(on) => Self::Boolean(on),
            toml::Value::Array(items) => Self::List(items.into_iter().map(Self::from_toml).collect()),
            toml::Value::Table(table) => {
                Self::Table(table.into_iter().map(|(name, value)| (name, Self::from_toml(value))).collect())
            }
            toml::Value::Float(number) => Self::Other(number.to_string()),
            toml::Value::Datetime(date) => Self::Other(date.to_string()),
        }
    }

    /// The text, if it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, quoted or not.
    #[must_use]
    pub fn as_integer(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The switch: true, yes, on or 1, or their opposites, quoted or not.
    #[must_use]
    pub fn as_switch(&self) -> Option<bool> {
        let word = match self {
            Self::Boolean(on) => return Some(*on),
            Self::Integer(number) => number.to_string(),
            Self::Text(text) => text.trim().to_ascii_lowercase(),
            _ => return None,
        };
        match word.as_str() {
            "1" | "true" | "yes" | "on" => Some(true),
            "0" | "false" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    /// The value as it may be shown.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Integer(number) => number.to_string(),
            Self::Boolean(on) => on.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(kind) => kind.clone(),
        }
    }
}

/// Text as it may be shown, cut off if it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() > LONGEST {
        return format!("{:?}...", text.chars().take(LONGEST).collect::<String>());
    }
    format!("{text:?}")
}
