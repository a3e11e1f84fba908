//! The Dockerfile and what is in deploy/, as far as they can be tested without Docker.

use std::path::{Path, PathBuf};

use crate::support::{Folder, crate_folder, text};

fn repository() -> PathBuf {
    crate_folder().parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap()
}

/// Whether .dockerignore lets a path through: the last pattern that matches decides.
fn is_in_context(path: &str) -> bool {
    let mut is_in = true;
    for line in read(".dockerignore").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (takes, pattern) = line.strip_prefix('!').map_or((false, line), |pattern| (true, pattern));
        let parts: Vec<&str> = pattern.trim_end_matches('/').split('/').collect();
        let is_part = |(part, pattern): (&str, &&str)| {
            pattern
                .split_once('*')
                .map_or(part == *pattern, |(begin, end)| part.starts_with(begin) && part.ends_with(end))
        };
        let matches = match parts.strip_prefix(&["**"]) {
            Some(rest) => path.split('/').any(|part| part == rest[0]),
            None => path.split('/').count() >= parts.len() && path.split('/').zip(&parts).all(is_part),
        };
        if matches {
            is_in = takes;
        }
    }
    is_in
}

#[test]
fn everything_that_the_images_copy_is_there() {
    let mut copied = 0;
    for line in
        read("Dockerfile").lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from="))
    {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        for path in &words[..words.len() - 1] {
            assert!(repository().join(path).exists(), "{line}");
            assert!(*path == "." || is_in_context(path), "{path} is ignored");
            copied += 1;
        }
    }
    assert!(copied >= 4);
    for secret in ["deploy/secrets/token_secret", "jmqt.db.secret", ".git/config", "target/debug/jmqtd"] {
        assert!(!is_in_context(secret), "{secret}");
    }
}

#[test]
fn the_build_has_every_member_of_the_workspace_and_a_rust_that_is_new_enough() {
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(is_in_context(&format!("{member}/Cargo.toml")), "{member}");
    }
    let oldest = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(read("Dockerfile").contains(&format!("ARG RUST_VERSION={oldest}.")), "{oldest}");
    let version = manifest.split("\nversion = \"").nth(1).unwrap().split('"').next().unwrap();
    for file in ["deploy/compose.yaml", "deploy/compose.cluster.yaml"] {
        for line in read(file).lines().filter(|line| line.contains("image: jmqt")) {
            assert!(line.ends_with(&format!(":{version}")), "{file}: {line}");
        }
    }
}

#[test]
fn the_configuration_in_the_image_can_be_used_alone_and_as_a_node() {
    let folder = Folder::new("");
    folder.add_user("alice", "secret");
    std::fs::copy(crate_folder().join("rules.acl"), folder.path("rules.acl")).unwrap();
    // The folders of the container.
    let configuration = read("deploy/jmqtd.conf").replace("/var/lib/jmqtd/", "").replace("/etc/jmqtd/", "");
    assert!(!configuration.contains("\"/"), "a path that is not in the image: {configuration}");
    folder.write("jmqtd.conf", &configuration);
    let said = text(&folder.run(&["--check"]));
    assert!(said.contains("the configuration can be used") && said.contains("0.0.0.0, port 1883"), "{said}");
    assert!(said.contains("This is a single broker"), "{said}");

    let mut variables = Vec::new();
    let compose = read("deploy/compose.cluster.yaml");
    for line in compose.lines().map(str::trim).filter(|line| line.starts_with("JMQT_")) {
        let (name, value) = line.split_once(": ").unwrap();
        let value = value.trim_matches('"').replace("/run/secrets/", "");
        if name.ends_with("_FILE") {
            assert!(compose.contains(&format!("file: ./secrets/{value}")), "{value} is a secret");
            folder.write(&value, "canary-of-more-than-thirty-two-bytes\n");
        }
        variables.push((name, value));
    }
    let output = folder.run_in(&["--check"], &variables);
    let said = text(&output);
    assert!(output.status.success() && said.contains("This is a node of a cluster"), "{said}");
    assert!(said.contains("the database \"jmqt\" on mariadb") && !said.contains("canary"), "{said}");
}

#[test]
fn the_balancer_of_the_cluster_serves_the_ports_of_the_nodes() {
    let (balancer, nodes) = (read("deploy/load_balancer.conf"), read("deploy/jmqtd.conf"));
    let compose = read("deploy/compose.cluster.yaml");
    for port in nodes.lines().filter_map(|line| line.split_once("_PORT = ").map(|(_, port)| port)) {
        let mapping = format!("\n{port} = node1:{port}, node2:{port}, node3:{port}\n");
        assert!(balancer.contains(&mapping), "{mapping}");
        assert!(compose.contains(&format!("- \"127.0.0.1:{port}:{port}\"")), "{port}");
    }
    let proxy = compose.split("JMQT_TRUSTED_PROXIES: ").nth(1).unwrap().lines().next().unwrap();
    assert!(compose.contains(&format!("ipv4_address: {proxy}\n")), "{proxy}");
}

#[test]
fn no_image_and_no_service_has_more_rights_than_it_needs() {
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains("\nUSER 65532:65532\n") && dockerfile.contains("\nSTOPSIGNAL SIGTERM\n"));
    assert_eq!(dockerfile.matches("\nHEALTHCHECK ").count(), 2);
    for line in dockerfile.lines().filter(|line| line.starts_with("FROM ")) {
        let image = line.split_whitespace().nth(1).unwrap();
        assert!(matches!(image, "base") || image.contains(':'), "pinned by version: {line}");
    }
    for file in ["deploy/compose.yaml", "deploy/compose.cluster.yaml"] {
        let compose = read(file);
        for line in compose.lines().map(str::trim).filter(|line| line.starts_with("image: ")) {
            assert!(
                line.rsplit(':').next().unwrap().starts_with(|first: char| first.is_ascii_digit()),
                "{line}"
            );
        }
        assert!(compose.contains("read_only: true") && compose.contains("no-new-privileges:true"));
        assert!(!compose.contains("privileged:") && !compose.contains("network_mode: host"));
        for line in
            compose.lines().map(str::trim).filter(|line| line.starts_with("- \"") && line.contains(':'))
        {
            assert!(line.starts_with("- \"127.0.0.1:"), "published on this machine alone: {line}");
        }
    }
    assert!(Path::new(&repository()).join("deploy/init-secrets").exists());
}
