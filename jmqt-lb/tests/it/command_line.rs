//! The program from the outside: arguments, files, exit codes.

use std::fs;
use std::net::TcpListener;
use std::process::Output;

use crate::support::{Backend, Balancer, command, configuration};
use tempfile::tempdir;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn help_is_printed_and_wrong_usage_exits_with_2() {
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in ["--config <FILE>", "--check <FILE>", "load_balancer.conf", "SIGHUP"] {
        assert!(stdout.contains(word), "{stdout}");
    }
    for arguments in [&["--confg", "x"][..], &["--config"], &["x.conf"], &["--check", "a", "--config", "b"]] {
        let (code, _, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.contains("--help"), "{stderr}");
    }
}

#[test]
fn a_file_is_checked_without_starting_anything() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("lb.conf");
    let path = file.to_str().unwrap();
    fs::write(&file, "[mappings]\n8010 = a.invalid:1\n").unwrap();
    let (code, stdout, stderr) = run(&["--check", path]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, format!("{path}: ok, 1 mappings\n"));

    fs::write(&file, "[mappings]\n8010 = a\n\n[options]\nthreads = 1 ; fine\nretrys = 1\n").unwrap();
    let (code, stdout, stderr) = run(&["--check", path]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let expected = [
        "jmqt-lb: the configuration has 2 mistakes:".to_owned(),
        format!("  {path}, line 2 (8010): found \"a\", expected a backend host:port"),
        format!("  {path}, line 6: retrys: there is no such key; did you mean retries?"),
    ];
    for (found, expected) in stderr.lines().zip(expected) {
        assert!(found.starts_with(&expected), "{stderr}");
    }
}

#[test]
fn the_shipped_file_is_fine() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../load_balancer.conf");
    assert_eq!(run(&["--check", shipped]).0, Some(0));
}

#[test]
fn errors_name_their_cause_and_exit_with_1_or_with_2_for_the_file() {
    let (code, _, stderr) = run(&["--config", "no/such/file.conf"]);
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("jmqt-lb: cannot read no/such/file.conf: "), "{stderr}");

    let folder = tempdir().unwrap();
    let file = folder.path().join("lb.conf");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    fs::write(&file, configuration(&format!("{address} = 127.0.0.1:9"), "")).unwrap();
    let (code, _, stderr) = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("jmqt-lb: cannot listen on {address}: ")), "{stderr}");

    fs::write(&file, configuration("127.0.0.1:0 = no-such-host.invalid:9", "")).unwrap();
    let (code, _, stderr) = run(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let error = "jmqt-lb: no backend of 127.0.0.1:0 has an address: no-such-host.invalid:9";
    assert!(stderr.contains(error), "{stderr}");
}

#[test]
fn without_arguments_the_file_in_the_folder_is_read() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("load_balancer.conf"), "[mappings]\nport = a:1\n").unwrap();
    let output = command(&[]).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("jmqt-lb: load_balancer.conf, line 2 (port): expected [addr:]port"),
        "{stderr}"
    );
}

#[test]
fn log_lines_have_the_servers_form_and_go_to_the_file_too() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("lb.log");
    let backend = Backend::start();
    let options = format!("log_mode = INF\nlog_path = {}", file.display());
    let mut balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), &options);
    balancer.signal("TERM");
    assert_eq!(balancer.exit_code(), Some(0));
    let line = balancer.logged("Listening on ");
    let (time, rest) = line.split_at(15);
    assert!(time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).eq("00-00 00:00:00 ".chars()));
    assert_eq!(rest, format!("[JMQTLoadBalancer:MAIN] INF : Listening on {}", balancer.mappings[0]));
    assert!(fs::read_to_string(file).unwrap().lines().any(|found| found == line));
}
