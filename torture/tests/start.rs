//! Configurations with which a node does not start.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::process::Command;

#[test] // Redis alone would lose what must survive
fn a_node_does_not_start_with_redis_and_without_mysql() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("server.conf");
    std::fs::write(&config, "SOCKET_PORT = 0\nENABLE_REDIS = true\n").unwrap();
    let mut node = Command::new(env!("CARGO_BIN_EXE_torture_node"));
    node.arg("--config").arg(&config).arg("--notices").arg(folder.path().join("notices"));
    let ended = node.args(["--name", "n0", "--start", "1"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("ENABLE_REDIS") && said.contains("ENABLE_MYSQL"), "{said}");
    assert!(!folder.path().join("notices").exists());
}
