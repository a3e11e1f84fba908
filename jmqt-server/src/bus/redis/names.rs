//! The names of the Redis channels.

use super::outgoing::Target;
use crate::bus::NodeId;
use crate::config::{RedisMode, RedisOptions};

/// The hash tag of control channels. It places them on one shard of a Redis Cluster, so that control messages keep their
/// order, both those to one node and those to all nodes.
const SHARD: &str = "{nodes}:";

/// See the module documentation.
pub(super) struct Names {
    prefix: String,
    shard: &'static str,
}

impl Names {
    pub(super) fn new(options: &RedisOptions) -> Self {
        let shard = if matches!(options.mode, RedisMode::Cluster { .. }) { SHARD } else { "" };
        Self { prefix: options.prefix.clone(), shard }
    }

    /// The name for a JMQT channel.
    pub(super) fn channel(&self, name: &str) -> String {
        format!("{}c:{name}", self.prefix)
    }

    /// The JMQT channel that has this name.
    pub(super) fn channel_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix.as_str())?.strip_prefix("c:")
    }

    /// The name of the channel of one node.
    pub(super) fn node(&self, node: NodeId) -> String {
        format!("{}{}n:{node}", self.prefix, self.shard)
    }

    /// The name of the channel of all nodes.
    pub(super) fn everybody(&self) -> String {
        format!("{}{}all", self.prefix, self.shard)
    }

    pub(super) fn target(&self, target: &Target) -> String {
        match target {
            Target::Channel(name) => self.channel(name.as_str()),
            Target::Node(node) => self.node(*node),
            Target::All => self.everybody(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_cluster_control_channels_are_on_one_shard() {
        let mut options = RedisOptions::standalone("redis", 6379);
        let names = Names::new(&options);
        assert_eq!(
            (names.everybody(), names.node(NodeId(1))),
            ("jmqt:all".into(), "jmqt:n:0000000000000001".into())
        );
        assert_eq!(names.channel_of(&names.channel("all")), Some("all"));
        assert_eq!(names.channel_of(&names.everybody()), None);
        options.mode = RedisMode::Cluster { nodes: Vec::new() };
        let names = Names::new(&options);
        assert_eq!(names.everybody(), "jmqt:{nodes}:all");
        assert_eq!(names.node(NodeId(1)), "jmqt:{nodes}:n:0000000000000001");
        assert_eq!(names.channel("news"), "jmqt:c:news");
    }
}
