//! Validators that are ready to use: logins from a password file or with JSON Web Tokens, and a file with rules that says who
//! may read and write which channels.
//!
//! [`Login`] asks its sources who a client is, in order; the first that knows the client decides. [`Rules`](RulesFile) decide
//! about subscriptions and publishes. Both deny what is not allowed, and both read their files again when they change.
//!
//! ```no_run
//! use jmqt_server::prelude::*;
//! use jmqt_server::ready::{Anonymous, Login, PasswordFile, RulesFile};
//!
//! # async fn serve() -> Result<(), BoxError> {
//! let config = Config::load(Some("server.conf".as_ref()))?;
//! let tokens = TokenIssuer::from_config(&config)?;
//! let login = Login::new(tokens).ask(PasswordFile::open("users.passwd")?).ask(Anonymous);
//! let rules = RulesFile::open("rules.acl")?;
//! let server = Server::builder(config)
//!     .validate_auth(login.clone()).validate_conn(login)
//!     .validate_sub(rules.clone()).validate_pub(rules)
//!     .start().await?;
//! server.run_until_signal().await?;
//! # Ok(())
//! # }
//! ```

mod anonymous;
mod certificate;
mod gate;
mod grants;
#[cfg(feature = "ready-http")]
mod http;
mod identity;
mod jwt;
mod login;
mod password_file;
mod rules;
mod rules_file;
mod turns;
mod unavailable;
mod wrappers;

pub use crate::watched::{FileError, Problem};
pub use anonymous::Anonymous;
pub use certificate::{CertificateLogin, CertificateName};
#[cfg(feature = "ready-http")]
pub use http::{HttpBackend, HttpBuilder, HttpCounters, HttpError};
pub use identity::{Answer, Credentials, Identity, IdentitySource};
pub use jwt::{InvalidKey, JwtKeys, JwtLogin};
pub use login::{ClientIds, Login};
pub use password_file::{EditError, InvalidUserName, PasswordFile};
pub use rules::{Access, InvalidRules, Rules};
pub use rules_file::RulesFile;
pub use unavailable::Unavailable;
pub use wrappers::{CacheOptions, Cached, Limited, TimedOut};
