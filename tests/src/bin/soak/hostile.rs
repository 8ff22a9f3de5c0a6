//! A process that tries to be taken for another one: while it accepts short connections it keeps changing its
//! name, its environment and its process context, and at times executes another file.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use acceptd_tests::process_context;

/// The names of the executables that it becomes in turn.
pub(crate) const EXECUTABLES: [&str; 2] = ["hostile-one", "hostile-two"];

/// The pause between two changes: as short as the time an agent takes to read, but long enough to leave it
/// some CPU.
const PAUSE: Duration = Duration::from_micros(200);

/// The prefix of the service names that the process with this number forges.
pub(crate) fn forged_by(number: usize) -> String {
    format!("forged-{number}-")
}

/// The command that starts one life, with long arguments, which an agent has to read.
pub(crate) fn command(program: &Path, number: usize, lives: u32, each: u32) -> Command {
    let mut command = Command::new(program);
    command.arg("hostile").args([number.to_string(), lives.to_string(), each.to_string()]);
    command.args(["x"; 1000]).env_clear().env("OTEL_SERVICE_NAME", forged_by(number) + "e");
    command
}

/// Prints its port, process id and executable, accepts `each` connections, and then executes the other file
/// of its folder for the next of `lives` lives.
pub(crate) fn run(number: usize, lives: u32, each: u32) -> ExitCode {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let this = std::env::current_exe().expect("a path");
    let name = this.file_name().expect("a file").to_string_lossy().into_owned();
    println!("{} {} {name}", address.port(), std::process::id());
    std::io::stdout().flush().expect("stdout is open");
    thread::spawn(change_names);
    let forged = ["a", "b", "c", "d"].map(|end| forged_by(number) + end);
    let [_, _, third, fourth] = forged.clone();
    thread::spawn(move || change_environment(&[third, fourth]));
    thread::spawn(move || process_context::publish_in_turn(&[&forged[0], &forged[1]], PAUSE));
    let clients = thread::spawn(move || {
        for _ in 0..each {
            let mut client = TcpStream::connect(address).expect("the listener is up");
            // Let the server close first, so that the client's port is free again at once.
            _ = client.read(&mut [0]);
        }
    });
    for _ in 0..each {
        drop(listener.accept().expect("a connection"));
    }
    clients.join().expect("an unpoisoned lock");
    if lives <= 1 {
        return ExitCode::SUCCESS;
    }
    let next = EXECUTABLES.iter().find(|other| **other != name).expect("two");
    let error = command(&this.with_file_name(next), number, lives - 1, each).exec();
    panic!("exec failed: {error}");
}

/// Keeps changing the names of this thread and of the process.
fn change_names() {
    let comm = Path::new("/proc/self/comm");
    for name in ["forged", "kworker/0:1", "nginx", "\u{1b}[2J"].iter().cycle() {
        _ = rustix::thread::set_name(&CString::new(*name).expect("no NUL"));
        _ = fs::write(comm, name);
        thread::sleep(PAUSE);
    }
}

/// Keeps overwriting the environment in memory, where `/proc/PID/environ` reads it.
fn change_environment(names: &[String; 2]) {
    let stat = fs::read_to_string("/proc/self/stat").expect("it is there");
    let behind_name = stat.rsplit_once(')').expect("a name").1;
    // env_start, field 50 (proc_pid_stat(5)), counted from field 3.
    let start: u64 =
        behind_name.split_whitespace().nth(47).and_then(|start| start.parse().ok()).expect("a number");
    let memory = File::options().write(true).open("/proc/self/mem").expect("its own memory");
    let [first, second] = names.each_ref().map(|name| format!("OTEL_SERVICE_NAME={name}\0").into_bytes());
    let texts = [first, second, b"\xff\xff=\0\0\0\xfe\0OTEL_".to_vec()];
    for text in texts.iter().cycle() {
        _ = memory.write_at(text, start);
        thread::sleep(PAUSE);
    }
}
