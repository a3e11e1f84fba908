//! Any text as topic, filter and payload.

#![no_main]

#[path = "../../tests/it/checks.rs"]
#[allow(dead_code)]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<&str>, &str, &[u8])| checks::any_names(&input.0, input.1, input.2));
