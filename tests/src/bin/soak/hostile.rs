//! A process that does what it can to be taken for another one: while it accepts short connections it goes on changing its name, its
//! environment and its process context, and now and then becomes another executable.

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

use acceptd_tests::context;

/// Executables that it is in turn; of what it says no name begins in another way than `forged`.
pub(crate) const EXECUTABLES: [&str; 2] = ["hostile-one", "hostile-two"];

/// How often it changes something: as fast as an agent may read, and not so fast that nothing else gets a CPU.
const PAUSE: Duration = Duration::from_micros(200);

/// Accepts `each` connections, then becomes the next executable of its folder with one life less. For each life it prints a line:
/// its port, its process id, its executable.
pub(crate) fn run(lives: u32, each: u32) -> ExitCode {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    let this = std::env::current_exe().expect("a path");
    let name = this.file_name().expect("a file").to_string_lossy().into_owned();
    println!("{} {} {name}", address.port(), std::process::id());
    std::io::stdout().flush().expect("a reader");
    thread::spawn(change_names);
    thread::spawn(change_environment);
    thread::spawn(|| context::torment(&["forged-a", "forged-b"], PAUSE));
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
    let mut next = Command::new(this.with_file_name(next));
    let error = next.args(["hostile", &(lives - 1).to_string(), &each.to_string()]).exec();
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
fn change_environment() {
    let stat = fs::read_to_string("/proc/self/stat").expect("it is there");
    let behind_name = stat.rsplit_once(')').expect("a name").1;
    // Field 50 of all, counted behind the second: env_start (proc_pid_stat(5)).
    let start: u64 =
        behind_name.split_whitespace().nth(47).and_then(|start| start.parse().ok()).expect("a number");
    let memory = File::options().write(true).open("/proc/self/mem").expect("its own");
    let texts: [&[u8]; 3] =
        [b"OTEL_SERVICE_NAME=forged-c\0", b"OTEL_SERVICE_NAME=forged-d\0", b"\xff\xff=\0\0\0\xfe\0OTEL_"];
    for text in texts.iter().cycle() {
        _ = memory.write_at(text, start);
        thread::sleep(PAUSE);
    }
}
