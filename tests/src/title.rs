//! A title over the arguments and the environment, as servers show one (nginx, redis, sshd).

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

/// A title that is ready to be shown by a single write.
#[derive(Debug)]
pub struct Title {
    memory: File,
    start: u64,
    block: Vec<u8>,
}

impl Title {
    /// Finds this process's arguments and environment.
    ///
    /// # Panics
    /// If `/proc` cannot be read.
    #[must_use]
    pub fn new(title: &str) -> Self {
        // Fields 48 and 51 of proc_pid_stat(5), counted after the name.
        const ARG_START: usize = 45;
        const ENV_END: usize = 48;
        let stat = fs::read_to_string("/proc/self/stat").expect("/proc");
        let (_, after_name) = stat.rsplit_once(')').expect("a name");
        let field = |index| after_name.split_ascii_whitespace().nth(index).expect("a field");
        let [start, end] = [ARG_START, ENV_END].map(|index| field(index).parse::<u64>().expect("an address"));
        let mut block = vec![0; usize::try_from(end - start).expect("a length")];
        block[..title.len()].copy_from_slice(title.as_bytes());
        let memory = File::options().write(true).open("/proc/self/mem").expect("its own memory");
        Self { memory, start, block }
    }

    /// Overwrites this process's arguments and its whole environment with the title and NULs, as setproctitle
    /// does.
    ///
    /// # Panics
    /// If the process cannot write to its own memory.
    pub fn show(&self) {
        self.memory.write_all_at(&self.block, self.start).expect("writable memory");
        let environment = fs::read("/proc/self/environ").expect("/proc");
        assert!(environment.iter().all(|byte| *byte == 0), "nothing of the environment is left");
    }
}
