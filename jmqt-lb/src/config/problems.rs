//! What is wrong in a file, while it is read.

use std::path::{Path, PathBuf};

use jmqt_config::{ConfigError, Origin};

/// The mistakes of one file. Reading goes on after each, to find the others.
#[derive(Debug)]
pub(super) struct Problems {
    path: PathBuf,
    found: Vec<ConfigError>,
}

impl Problems {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), found: Vec::new() }
    }

    /// Notes a mistake on a line, counted from 1; 0 if it is about the file as a whole.
    pub(super) fn note(&mut self, line: usize, key: &str, problem: impl Into<String>) {
        let (origin, key) = (self.origin(line), Some(key.to_owned()));
        self.found.push(ConfigError::Syntax { origin, key, problem: problem.into() });
    }

    pub(super) fn extend(&mut self, problems: Vec<ConfigError>) {
        self.found.extend(problems);
    }

    pub(super) fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.clone(), line }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, ConfigError> {
        if self.found.is_empty() { Ok(value) } else { Err(ConfigError::all(self.found)) }
    }
}
