//! Arguments, configuration, and what the program says about them.

use crate::support::{Folder, crate_folder, text};

#[test]
fn the_example_configuration_can_be_used_and_check_says_what_it_means() {
    let folder = Folder::new("");
    for file in ["jmqtd.conf", "rules.acl"] {
        std::fs::copy(crate_folder().join(file), folder.path(file)).unwrap();
    }
    folder.add_user("alice", "secret");
    let output = folder.run(&["--check"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for line in [
        "MQTT over TCP: 127.0.0.1, port 1883",
        "Only this machine can connect (BIND_ADDRESS)",
        "Users with a password: 1, from users.passwd",
        "Channels: 4 rules from rules.acl; what they do not allow is denied",
        "Sessions and messages: jmqt.db",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
}

#[test]
fn health_says_whether_the_broker_is_well() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let folder = Folder::new(&format!("AUTH = 'anonymous'\nACL = 'none'\nWEBSOCKET_PORT = {port}"));
    let health = |folder: &Folder| folder.run(&["health", "--config", "jmqtd.conf"]);
    let output = health(&folder);
    assert_eq!(output.status.code(), Some(1), "nobody answers: {}", text(&output));
    assert!(text(&output).contains("does not answer"), "{}", text(&output));
    drop(free);
    let output = health(&folder);
    assert_eq!(output.status.code(), Some(1), "nobody listens: {}", text(&output));
    let broker = folder.start_with(3);
    let output = health(&broker.folder);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn every_mistake_of_a_configuration_is_named_and_nothing_starts() {
    let folder =
        Folder::new("AUTH = 'password_file, ldap'\nACL = 'file'\nACL_FIEL = 'x'\nTIMEOUT_SECONDS = 4");
    for arguments in [&["--check"][..], &[]] {
        let output = folder.run(arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in
            ["AUTH is", "\"ldap\"", "did you mean ACL_FILE?", "TIMEOUT_SECONDS is 4", "ACL_FILE is missing"]
        {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
    let folder = Folder::new("ACL = 'none'");
    let said = text(&folder.run(&[]));
    assert!(said.contains("AUTH is missing") && said.contains("nobody could log in"), "{said}");
}

#[test]
fn check_warns_of_what_may_not_be_meant() {
    let folder = Folder::new(
        "AUTH = 'password_file'\nPASSWORD_FILE = 'users.passwd'\nACL = 'file'\nACL_FILE = 'rules.acl'",
    );
    folder.write("users.passwd", "# nobody\n");
    folder.write("rules.acl", "\u{feff}allow user bob read a/%d/%23 # the device\nallow all read %u/%c\n");
    let warned = |name: &str, value: &str| {
        let mut command = folder.command();
        let output = command.arg("--check").env(name, value).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let said = text(&output);
        said.lines().filter_map(|line| line.strip_prefix("warning: ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let warnings = warned("JMQT_BIND_ADDRESS", "0.0.0.0");
    let expected = [
        "other machines can connect without TLS",
        "users.passwd has no user: `jmqtd passwd users.passwd NAME` adds one (PASSWORD_FILE)",
        "rules.acl, line 1: %d is text here; names are %u (the user) and %c (the client id)",
        "rules.acl, line 1: there is no user \"bob\"",
        "every user of this machine has access to users.passwd: chmod o-rwx users.passwd",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}");
    }
    std::fs::remove_file(folder.path("users.passwd")).unwrap();
    folder.add_user("bob", "b");
    folder.write("rules.acl", "allow user bob read a\n");
    assert_eq!(warned("JMQT_ACL", "none"), ["every client may read and write everything (ACL = \"none\")"]);
    assert!(warned("JMQT_ACL", "file").is_empty());
}

#[test]
fn a_missing_file_is_named_with_the_key_that_asks_for_it() {
    let folder = Folder::new("AUTH = 'password_file'\nPASSWORD_FILE = 'users.passwd'\nACL = 'none'");
    for arguments in [&["--check"][..], &[]] {
        let output = folder.run(arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("cannot read users.passwd (PASSWORD_FILE): "), "{said}");
    }
    let folder = Folder::new("AUTH = 'certificate'\nACL = 'none'");
    let said = text(&folder.run(&["--check"]));
    assert!(said.contains("AUTH names certificate: it requires ENABLE_SSL"), "{said}");
}

#[test]
fn sighup_reads_the_files_and_says_what_waits_for_a_restart() {
    let folder = Folder::new(
        "AUTH = 'password_file'\nPASSWORD_FILE = 'users.passwd'\nACL = 'file'\nACL_FILE = 'rules.acl'",
    );
    folder.write("users.passwd", "");
    folder.write("rules.acl", "allow all read a\n");
    let broker = folder.start();
    let (program, folder) = (&broker.program, &broker.folder);
    program.signal("HUP");
    for line in ["users.passwd was read again", "rules.acl was read again", "is as it was at the start"] {
        program.next_logged(line);
    }
    let configuration = std::fs::read_to_string(folder.path("jmqtd.conf")).unwrap();
    let more = "MAX_CONNECTIONS = 7\nCLIENT_IDS = 'ANY'\nREDIS_PASSWORD = 'canary-of-redis'\n";
    folder.write("jmqtd.conf", &format!("\u{feff}{configuration}{more}"));
    folder.write("rules.acl", "allow all reed a\nallow all read a\nallow al read a\n");
    program.signal("HUP");
    let lines = ["rules.acl, line 1: ", "rules.acl, line 3: ", "stays in force"];
    for line in lines
        .iter()
        .chain(&["In force now: MAX_CONNECTIONS", "Waits for a restart: CLIENT_IDS, REDIS_PASSWORD"])
    {
        let logged = program.next_logged(line);
        assert!(!logged.contains("\\n"), "{logged}");
    }
    assert!(!program.log_lines("").concat().contains("canary"), "values are not logged");
}

#[test]
fn a_file_with_a_mistake_stops_the_start_with_the_line() {
    let folder = Folder::new(
        "AUTH = 'password_file'\nPASSWORD_FILE = 'users.passwd'\nACL = 'file'\nACL_FILE = 'rules.acl'",
    );
    folder.write("users.passwd", "alice:hunter2\n");
    folder.write("rules.acl", "allow all read a\nallow all reed b\n");
    let output = folder.run(&[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("users.passwd, line 1") && !said.contains("hunter2"), "{said}");
    folder.write("users.passwd", "");
    let output = folder.run(&["--check"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("rules.acl, line 2: expected `read`, `write` or `both`, found \"reed\""), "{said}");
}

#[test]
fn passwd_says_what_it_did_and_refuses_what_cannot_be() {
    let folder = Folder::new("");
    let output = folder.run_with(&["passwd", "users.passwd", "alice"], "secret\n");
    assert!(text(&output).contains("a new file, which only its owner can read"), "{}", text(&output));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(folder.path("users.passwd")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let written = std::fs::read_to_string(folder.path("users.passwd")).unwrap();
    assert!(written.starts_with("alice:$argon2id$") && !written.contains("secret"), "{written}");
    for (arguments, input, expected) in [
        (&["passwd", "users.passwd", "a:b"][..], "x", "no colon"),
        (&["passwd", "users.passwd", "bob"], "", "a password has 1 to 1024 bytes"),
        (&["passwd", "--delete", "users.passwd", "bob"], "", "there is no user \"bob\""),
        (&["passwd", "no/such/folder", "bob"], "x", "cannot change no/such/folder"),
    ] {
        let output = folder.run_with(arguments, input);
        assert!(!output.status.success() && text(&output).contains(expected), "{}", text(&output));
    }
    assert_eq!(std::fs::read_to_string(folder.path("users.passwd")).unwrap(), written);
}

#[test]
fn keys_of_operators_are_made_and_check_says_who_may_ask() {
    let folder =
        Folder::new("AUTH = 'anonymous'\nACL = 'none'\nADMIN_ADDRESS = 9090\nADMIN_KEYS_FILE = 'admin.keys'");
    let output = folder.run(&["--check"]);
    assert!(
        output.status.code() == Some(2) && text(&output).contains("cannot read admin.keys"),
        "{}",
        text(&output)
    );
    let output = folder.run(&["admin-key", "admin.keys", "alice", "--scope", "write"]);
    let key = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && key.starts_with("jmqt_") && key.len() == 49, "{key}");
    let written = std::fs::read_to_string(folder.path("admin.keys")).unwrap();
    assert!(written.starts_with("alice:write:") && !written.contains(key.trim()), "{written}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(folder.path("admin.keys")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let said = text(&folder.run(&["--check"]));
    for line in
        ["Operators: http://127.0.0.1:9090/metrics", "Admin API: keys of operators: 1, from admin.keys"]
    {
        assert!(said.contains(line), "{line} in {said}");
    }
    let output = folder.run(&["admin-key", "admin.keys", "alice", "--delete"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(folder.path("admin.keys")).unwrap(), "");
    let output = folder.run(&["admin-key", "admin.keys", "a:b"]);
    assert!(
        !output.status.success() && text(&output).contains("cannot be the name of a key"),
        "{}",
        text(&output)
    );
}
