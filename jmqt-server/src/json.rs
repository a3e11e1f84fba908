//! Values of the application as JSON text.

use jmqt_core::Payload;

/// A value as JSON text that every client can read.
pub(crate) fn json_text(value: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(value)?;
    match Payload::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(serde::ser::Error::custom(error)),
    }
}
