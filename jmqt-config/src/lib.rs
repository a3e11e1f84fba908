//! Reads the configuration of JMQT programs: server, client and load balancer.
//!
//! A program names its [`Keys`]. [`Settings`] reads `KEY = value` lines and environment variables, and answers by key
//! and type. A wrong value is noted, and its default is used instead, so that one run reports every mistake
//! ([`ConfigError::Several`]), each with file, line, key, what was found and what was expected.
//!
//! ```
//! use jmqt_config::{Keys, Origin, Settings, Variables};
//!
//! const KEYS: Keys =
//!     Keys { known: &["PORT", "LOG_MODE"], secret: &[], prefix: "MY_PROGRAM_", variables: Variables::Own };
//!
//! let text = (&Origin::Text { line: 0 }, "PORT = 80100");
//! let settings = Settings::read(KEYS, Some(text), [])?;
//! let _port = settings.integer("PORT", 8010, 1..=65_535);
//! let error = settings.finish().unwrap_err();
//! assert_eq!(error.to_string(), "configuration text, line 1: PORT is 80100; expected an integer from 1 to 65535");
//! # Ok::<(), jmqt_config::ConfigError>(())
//! ```
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
