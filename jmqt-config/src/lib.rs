//! Reads the configuration of JMQT programs: server, client and load balancer.
//!
//! A program names its [`Keys`]. [`Settings`] reads `KEY = value` lines and environment variables, and answers by key
//! and type. A wrong value is noted, and its default is used instead, so that one run reports every mistake
//! ([`ConfigError::Several`]), each with file, line, key, what was found and what was expected.
//!
//! Not here: which keys a program has, their ranges, and what they mean together.

mod error;
mod keys;
mod settings;
mod value;

pub use error::{ConfigError, Origin};
pub use keys::{Keys, Variables};
pub use settings::Settings;
pub use value::Value;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
