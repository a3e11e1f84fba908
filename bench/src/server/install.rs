//! Finds the peers' programs, and installs those that are missing with apt-get.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use test_support::find;

use super::Kind;

/// A peer's program, its Debian package, and what prints its version.
struct Package {
    program: &'static str,
    package: &'static str,
    version: &'static str,
}

fn package(kind: Kind) -> Option<Package> {
    let (program, package, version) = match kind {
        Kind::Jmqt | Kind::Cluster => return None,
        Kind::Redis => ("redis-server", "redis-server", "--version"),
        Kind::Nats => ("nats-server", "nats-server", "--version"),
        Kind::Mosquitto => ("mosquitto", "mosquitto", "-h"),
    };
    Some(Package { program, package, version })
}

/// The path of a peer's program.
pub(crate) fn program(kind: Kind) -> Result<PathBuf> {
    let package = package(kind).context("not a peer")?;
    find(package.program).with_context(|| format!("{} is not installed", package.program))
}

/// Installs the peer unless it is there, and answers its version in its own words.
pub(crate) fn ensure(kind: Kind) -> Result<String> {
    let Package { program, package, version } = package(kind).context("not a peer")?;
    ensure_program(program, package, version)
}

/// The same for any program, its Debian package, and what prints its version.
pub(crate) fn ensure_program(program: &str, package: &str, version: &str) -> Result<String> {
    if find(program).is_none() {
        eprintln!("installing {package}");
        apt_get(&["update"])?;
        apt_get(&["install", "-y", "--no-install-recommends", package])?;
    }
    let program = find(program).with_context(|| format!("{program} is not installed"))?;
    let output = Command::new(program).arg(version).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    let version = line.split(" sha=").next().unwrap_or_default(); // Redis adds its build
    Ok(version.trim().to_owned())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("apt-get {arguments:?} failed; install it by hand, or leave the peer out with --peers");
    }
    Ok(())
}
