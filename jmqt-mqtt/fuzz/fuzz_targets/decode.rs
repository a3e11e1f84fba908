//! Any bytes as packets, and each packet cut off at every byte.

#![no_main]

#[path = "../../tests/it/checks.rs"]
#[allow(dead_code)]
mod checks;

use jmqt_mqtt::{Sender, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let version = [Version::V3_1, Version::V3_1_1, Version::V5][usize::from(input.0 % 3)];
    let sender = if input.0 & 128 == 0 { Sender::Client } else { Sender::Server };
    checks::any_bytes(input.1, version, sender);
});
