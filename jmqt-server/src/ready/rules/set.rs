//! Rules by whom they are for, so that those for other users and clients are not looked at.

use std::collections::HashMap;

use super::{Asker, Who};

/// The places of rules.
#[derive(Debug, Default)]
pub(super) struct RuleSet {
    all: Vec<usize>,
    anonymous: Vec<usize>,
    users: HashMap<Box<str>, Vec<usize>>,
    clients: HashMap<Box<str>, Vec<usize>>,
}

impl RuleSet {
    pub(super) fn insert(&mut self, who: &Who, rule: usize) {
        match who {
            Who::All => self.all.push(rule),
            Who::Anonymous => self.anonymous.push(rule),
            Who::User(user) => self.users.entry(user.clone()).or_default().push(rule),
            Who::Client(client) => self.clients.entry(client.clone()).or_default().push(rule),
        }
    }

    /// The rules for who asks.
    pub(super) fn of<'s>(&'s self, asker: Asker<'_>) -> impl Iterator<Item = usize> + use<'s> {
        let of_user = match asker.user {
            Some(user) => self.users.get(user),
            None => Some(&self.anonymous),
        };
        let of_client = self.clients.get(asker.client);
        self.all.iter().chain(of_user.into_iter().flatten()).chain(of_client.into_iter().flatten()).copied()
    }
}
