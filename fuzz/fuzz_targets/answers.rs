//! The answer of a server is classified, and a line of a file to be replayed is parsed or refused, without a
//! panic.
#![no_main]

use std::time::{Duration, SystemTime};

use acceptd_otlp::{recorded, retry};
use libfuzzer_sys::fuzz_target;
use tonic::{Code, Status};

fuzz_target!(|answer: (i32, u16, &str, &[u8], &str)| {
    let (code, http, message, details, retry_after) = answer;
    let status = Status::with_details(Code::from_i32(code), message, details.to_vec().into());
    for bytes in [1, 2 << 20] {
        _ = retry::classify_grpc(&status, bytes);
        let asked =
            retry::parse_retry_after(retry_after, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 31));
        _ = retry::classify_http(http, asked, bytes, message);
    }
    if let Ok(batch) = recorded::parse_line(details) {
        assert!(batch.records > 0 || batch.split().is_none());
    }
});
