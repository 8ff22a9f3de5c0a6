//! A configuration file is loaded, or every mistake in it is named, without a panic.
#![no_main]

use std::{cell::OnceCell, fs, path::PathBuf};

use acceptd::config;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static FILE: OnceCell<(tempfile::TempDir, PathBuf)> = const { OnceCell::new() };
}

fuzz_target!(|data: &[u8]| {
    FILE.with(|file| {
        let (_, path) = file.get_or_init(|| {
            let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
            let path = folder.path().join("acceptd.toml");
            (folder, path)
        });
        fs::write(path, data).expect("writable");
        match config::load(Some(path), [], &[]) {
            Ok(loaded) => assert!(loaded.settings().all(|setting| !setting.value.contains('\n'))),
            Err(error) => assert_ne!(error.to_string(), ""),
        }
    });
});
