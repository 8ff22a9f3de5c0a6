//! A process that does what it can to be taken for another one: while it accepts short connections it goes on changing its name, its
//! environment and its process context, and now and then becomes another executable.

use std::{
    ffi::CString,
    fs::{
        File, {self},
    },
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use acceptd_tests::context;

/// Executables that it is in turn.
pub(crate) const EXECUTABLES: [&str; 2] = ["hostile-one", "hostile-two"];

/// How often it changes something: as fast as an agent may read, and not so fast that nothing else gets a CPU.
const PAUSE: Duration = Duration::from_micros(200);

/// How the names begin that the process with this number forges for its service.
pub(crate) fn forged_by(number: usize) -> String {
    format!("forged-{number}-")
}

/// A command for one of its lives: with arguments that want much room.
pub(crate) fn command(program: &Path, number: usize, lives: u32, each: u32) -> Command {
    let mut command = Command::new(program);
    command.arg("hostile").args([number.to_string(), lives.to_string(), each.to_string()]);
    command.args(["x"; 1000]).env_clear().env("OTEL_SERVICE_NAME", forged_by(number) + "e");
    command
}

/// Accepts `each` connections, then becomes the next executable of its folder with one life less. For each life it prints a line:
/// its port, its process id, its executable.
pub(crate) fn run(number: usize, lives: u32, each: u32) -> ExitCode {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let this = std::env::current_exe().expect("a path");
    let name = this.file_name().expect("a file").to_string_lossy().into_owned();
    println!("{} {} {name}", address.port(), std::process::id());
    std::io::stdout().flush().expect("a reader");
    thread::spawn(change_names);
    let forged = ["a", "b", "c", "d"].map(|end| forged_by(number) + end);
    let [_, _, third, fourth] = forged.clone();
    thread::spawn(move || change_environment(&[third, fourth]));
    thread::spawn(move || context::torment(&[&forged[0], &forged[1]], PAUSE));
    let clients = thread::spawn(move || {
        for _ in 0..each {
            let mut client = TcpStream::connect(address).expect("somebody listens");
            // The server closes first: the client's port is free again at once.
            _ = client.read(&mut [0]);
        }
    });
    for _ in 0..each {
        drop(listener.accept().expect("a connection"));
    }
    clients.join().expect("no panic");
    if lives <= 1 {
        return ExitCode::SUCCESS;
    }
    let next = EXECUTABLES.iter().find(|other| **other != name).expect("two");
    let error = command(&this.with_file_name(next), number, lives - 1, each).exec();
    panic!("exec failed: {error}");
}

/// Of this thread, and of the process.
fn change_names() {
    let comm = Path::new("/proc/self/comm");
    for name in ["forged", "kworker/0:1", "nginx", "\u{1b}[2J"].iter().cycle() {
        _ = rustix::thread::set_name(&CString::new(*name).expect("no NUL"));
        _ = fs::write(comm, name);
        thread::sleep(PAUSE);
    }
}

/// Where the kernel put the environment, and shows it from.
fn change_environment(names: &[String; 2]) {
    let stat = fs::read_to_string("/proc/self/stat").expect("it is there");
    let behind_name = stat.rsplit_once(')').expect("a name").1;
    // Field 50 of all, counted behind the second: env_start (proc_pid_stat(5)).
    let start: u64 =
        behind_name.split_whitespace().nth(47).and_then(|start| start.parse().ok()).expect("a number");
    let memory = File::options().write(true).open("/proc/self/mem").expect("its own");
    let [first, second] = names.each_ref().map(|name| format!("OTEL_SERVICE_NAME={name}\0").into_bytes());
    let texts = [first, second, b"\xff\xff=\0\0\0\xfe\0OTEL_".to_vec()];
    for text in texts.iter().cycle() {
        _ = memory.write_at(text, start);
        thread::sleep(PAUSE);
    }
}
