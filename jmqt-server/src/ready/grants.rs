//! Channel patterns in a token, or in the answer of a backend.

use std::sync::Arc;

use super::rules::{InvalidRules, Rules};

/// What a client may read (`sub`), write (`pub`), or both (`all`): patterns of [`Rules`].
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Grants {
    sub: Vec<String>,
    r#pub: Vec<String>,
    all: Vec<String>,
}

impl Grants {
    pub(super) fn rules(self) -> Result<Arc<Rules>, InvalidRules> {
        let read = self.sub.iter().chain(&self.all).map(String::as_str);
        let write = self.r#pub.iter().chain(&self.all).map(String::as_str);
        Rules::allowing(read, write).map(Arc::new)
    }
}
