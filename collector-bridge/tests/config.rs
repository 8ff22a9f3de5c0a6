//! `acceptd config …` as a user runs it: exit codes, and the content of stdout and stderr.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a helper that fails should fail its test")]

use std::process::{Command, Output};

/// Runs the binary with `args` and with `env` as its whole environment.
fn acceptd(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acceptd"));
    command.args(args).env_clear().envs(env.iter().copied()).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the output is text")
}

/// An empty configuration file, so that the file of the machine is not read.
const EMPTY: &str = "/dev/null";

#[test]
fn the_default_file_is_valid() {
    let printed = acceptd(&["config", "default"], &[]);
    assert_eq!(printed.status.code(), Some(0));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("acceptd.toml");
    std::fs::write(&path, &printed.stdout).expect("the file is written");
    let path = path.to_str().expect("a path of text");
    let validated = acceptd(&["config", "validate", "--config", path], &[]);
    assert_eq!(text(&validated.stdout), format!("the configuration is valid ({path})\n"));
    assert_eq!((validated.status.code(), text(&validated.stderr)), (Some(0), ""));
}

#[test]
fn show_prints_values_with_origins_and_no_secret() {
    let args = ["config", "show", "--config", EMPTY, "--endpoint", "http://u:hunter2@collector:4317"];
    let env = [("OTEL_BLRP_SCHEDULE_DELAY", "soon"), ("ACCEPTD_EXPORT_HEADERS", "x-key=hunter2")];
    let shown = acceptd(&args, &env);
    assert_eq!(shown.status.code(), Some(0));
    let line = |key: &str| {
        let found = text(&shown.stdout).lines().find(|line| line.starts_with(key)).unwrap_or_default();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line("export.endpoint "),
        r#"export.endpoint = "http://***@collector:4317" # flag --endpoint"#
    );
    assert_eq!(line("batch.timeout "), r#"batch.timeout = "1s" # default"#);
    assert!(line("export.headers ").ends_with("# env ACCEPTD_EXPORT_HEADERS"));
    assert!(!text(&shown.stdout).contains("hunter2"));
    assert_eq!(
        text(&shown.stderr),
        "acceptd: warning: env OTEL_BLRP_SCHEDULE_DELAY: \"soon\" is not a number of milliseconds; the value is ignored\n"
    );
}

#[test]
fn mistakes_exit_with_64_and_a_message_on_standard_error() {
    for (args, env, message) in [
        (
            &["config", "validate", "--config", EMPTY, "--endpoint", "h:0"][..],
            &[][..],
            "flag --endpoint: export.endpoint: ",
        ),
        (
            &["config", "show", "--config", EMPTY],
            &[("ACCEPTD_BATCH_TIMEOUT", "1")],
            "env ACCEPTD_BATCH_TIMEOUT: batch.timeout: ",
        ),
        (
            &["config", "validate", "--config", "/no/such/file"],
            &[],
            "/no/such/file: cannot read the configuration file",
        ),
        (&["run", "--config", EMPTY, "--set", "colour=red"], &[], "flag --set: unknown key \"colour\""),
        (&["config", "explain"], &[], "unrecognized subcommand"),
    ] {
        let output = acceptd(args, env);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert_eq!(text(&output.stdout), "", "{args:?}");
        assert!(text(&output.stderr).contains(message), "{args:?}: {}", text(&output.stderr));
    }
}
