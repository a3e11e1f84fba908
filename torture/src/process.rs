//! The programs of this workspace.

use std::path::PathBuf;
use std::process::Command;

use test_support::programs_folder;

/// A program of this workspace. One that is missing is built first.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folder = programs_folder();
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    if path.is_file() {
        return path;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--bin", name]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.status().unwrap();
    assert!(status.success() && path.is_file(), "{} was not built: cargo build --bin {name}", path.display());
    path
}
