//! Type information of a kernel: offsets, or an error with its remedy.
#![no_main]

use acceptd::bpf::offsets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = offsets::of_bytes(data, None, "fuzz") {
        assert!(!error.to_string().is_empty());
    }
});
