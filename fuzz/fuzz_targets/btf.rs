//! A kernel's type information gives the offsets, or an error with its remedy, without a panic.
#![no_main]

use acceptd::bpf::offsets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = offsets::resolve_bytes(data, &[], "fuzz") {
        assert_ne!(error.to_string(), "");
    }
});
