//! A full disk: QoS 1 is answered with 5, QoS 0 continues, and free space is enough to recover.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::Process;

/// A small file system of its own, unmounted when it is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where this user may not mount.
    fn mount(at: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: the server's files may still be open for a moment.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_qos_1_alone_and_room_is_enough_to_recover() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path()) else {
        println!("left out: this user may not mount a small disk");
        return;
    };
    let process = Process::start(&folder.path().join("jmqt.db"), &[]);
    let mut alice = process.connect("alice");
    let mut away = process.connect("away");
    away.sub("news", 1);
    drop(away);
    let mut bob = process.connect("bob");
    bob.sub("live", 0);
    let data = format!("\"{}\"", "x".repeat(50_000));
    let filler = folder.path().join("filler");
    let mut acknowledged = 0;
    let refused = (0..1000).find(|number| {
        alice.publish("news", &data, &number.to_string());
        let ack = alice.expect(r#"{"pubAck":{"st":"#);
        let is_refused = ack.starts_with(r#"{"pubAck":{"st":5,"#);
        acknowledged += usize::from(!is_refused);
        if *number == 3 {
            // The rest of the disk goes to somebody else, except for a little.
            let mut room = 4 << 20;
            while room > 4096 && fs::write(&filler, vec![0; room]).is_err() {
                room -= 64 * 1024;
            }
        }
        is_refused
    });
    assert!(refused.is_some(), "the disk was never full");

    alice.send(r#"{"pub":{"cn":"live","dt":"still here"}}"#);
    bob.expect(r#"{"push":{"cn":"live","dt":"still here","#);
    alice.send(r#"{"sub":{"cn":"other","pr":1}}"#);
    alice.expect(r#"{"subAck":{"st":"#);

    fs::remove_file(&filler).unwrap();
    alice.publish("news", "\"room again\"", "last");
    alice.expect(r#"{"pubAck":{"st":1,"id":"last"}}"#);
    let mut away = process.connect("away");
    for _ in 0..acknowledged {
        let push = away.expect(r#"{"push":{"cn":"news","dt":"xxx"#);
        away.ack(&push);
    }
    away.expect(r#"{"push":{"cn":"news","dt":"room again","#);
}
