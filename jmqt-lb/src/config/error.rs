//! Why a file cannot be used, told so that it can be put right.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why there is no [`Config`](super::Config): shown to the operator as it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// What is wrong in it, in the order of the lines.
    #[error("{}", Listed(path, problems))]
    Wrong { path: PathBuf, problems: Vec<Problem> },
}

/// One thing that is wrong in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From 1; 0 if it is about the file as a whole.
    pub(super) line: usize,
    key: String,
    problem: String,
}

impl Problem {
    pub(super) fn new(line: usize, key: &str, problem: impl Into<String>) -> Self {
        Self { line, key: key.to_owned(), problem: problem.into() }
    }
}

/// `load_balancer.conf, line 3 (buffer_size): found "x", expected …`, a line for each.
struct Listed<'e>(&'e Path, &'e [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.0.display();
        for (index, Problem { line, key, problem }) in self.1.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            match line {
                0 => write!(f, "{separator}{file} ({key}): {problem}")?,
                _ => write!(f, "{separator}{file}, line {line} ({key}): {problem}")?,
            }
        }
        Ok(())
    }
}
