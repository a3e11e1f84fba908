//! Clients that have nothing to do with what a test is about.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{Client, Process};

/// A pair of clients that must be able to exchange messages despite the others.
pub struct Bystanders<S = TcpStream> {
    pub alice: Client<S>,
    bob: Client<S>,
}

impl Bystanders {
    pub fn new(process: &Process) -> Self {
        Self::over(|| Client::open(process.socket))
    }
}

impl<S: Read + Write> Bystanders<S> {
    /// Two of these connections.
    pub fn over(open: impl Fn() -> Client<S>) -> Self {
        let (mut alice, mut bob) = (open(), open());
        alice.conn("bystander alice", "");
        bob.conn("bystander bob", "");
        bob.sub("quiet", 0);
        Self { alice, bob }
    }

    pub fn exchange(&mut self) {
        self.alice.publish("quiet", "1", "q");
        self.alice.expect(r#"{"pubAck":{"st":1,"id":"q"}}"#);
        let push = self.bob.expect(r#"{"push":{"cn":"quiet","dt":1,"#);
        self.bob.ack(&push);
    }
}
