//! Any stream in any chunks.

#![no_main]

#[path = "../../tests/it/checks.rs"]
#[allow(dead_code)]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<Vec<u8>>)| checks::any_chunks(usize::from(input.0), &input.1));
