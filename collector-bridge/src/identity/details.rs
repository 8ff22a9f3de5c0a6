//! Reads how a process was started, for `resource.include`. The arguments are in the process's memory, so
//! reading them can block.

use acceptd_otlp::ProcessDetails;

use super::proc_dir::ProcDir;
use crate::config::Detail;

/// Most bytes read of a command line. The number of arguments of a longer one is unknown.
const MAX_CMDLINE_BYTES: u64 = 1 << 20;

/// Most bytes of memory for the arguments of one process, [`OVERHEAD`] included.
const MAX_ARGUMENT_BYTES: usize = 4 << 10;
/// Memory that one argument takes besides its bytes.
const OVERHEAD: usize = 64;

/// Reads the wanted details of a process. Can block for as long as the process makes the kernel wait for its
/// memory.
pub(super) fn read_details(dir: &ProcDir, wanted: &[Detail]) -> ProcessDetails {
    let wants = |detail| wanted.contains(&detail);
    let needs_arguments = wanted.iter().any(|detail| *detail != Detail::ParentPid);
    let mut details = ProcessDetails::default();
    if let Some(block) = needs_arguments.then(|| dir.read("cmdline", MAX_CMDLINE_BYTES)).flatten() {
        let (arguments, count) = arguments(&block);
        details.command =
            arguments.clone().next().filter(|_| wants(Detail::Command)).map(|first| truncate(first).to_vec());
        if wants(Detail::CommandArgs) {
            details.command_args = fitting(arguments);
        }
        let is_whole = (block.len() as u64) < MAX_CMDLINE_BYTES;
        details.args_count = count.filter(|_| is_whole && wants(Detail::ArgsCount));
    }
    details.parent_pid = wants(Detail::ParentPid).then(|| dir.parent()).flatten();
    details
}

/// Splits a command line at its NULs. Returns the arguments, and their number if it is known: a program that
/// overwrites its arguments with a title leaves NULs after it, which look like empty arguments. A kernel
/// thread has no arguments.
fn arguments(block: &[u8]) -> (impl Iterator<Item = &[u8]> + Clone, Option<u32>) {
    let used = block.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let (used, rest) = block.split_at(used);
    let arguments = used.split(|&byte| byte == 0).filter(|_| !used.is_empty());
    let is_known = !used.is_empty() && rest.len() <= 1;
    let count = is_known.then(|| u32::try_from(arguments.clone().count()).ok()).flatten();
    (arguments, count)
}

/// Truncates an argument that alone would take more than all the memory.
fn truncate(argument: &[u8]) -> &[u8] {
    argument.get(..MAX_ARGUMENT_BYTES - OVERHEAD).unwrap_or(argument)
}

/// The first arguments, as many as fit into [`MAX_ARGUMENT_BYTES`].
fn fitting<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut room = MAX_ARGUMENT_BYTES;
    let fits = |argument: &'a [u8]| {
        let argument = truncate(argument);
        room = room.checked_sub(argument.len() + OVERHEAD)?;
        Some(argument.to_vec())
    };
    arguments.map_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::{MAX_ARGUMENT_BYTES, OVERHEAD, arguments, fitting};

    fn list(block: &[u8]) -> (Vec<&[u8]>, Option<u32>) {
        let (all, count) = arguments(block);
        (all.collect(), count)
    }

    #[test]
    fn arguments_end_at_nuls() {
        let expected = [&b"nginx"[..], b"-g", b"", b"daemon off;"];
        assert_eq!(list(b"nginx\0-g\0\0daemon off;\0"), (expected.to_vec(), Some(4)));
        assert_eq!(list(b"nginx: master process"), (vec![&b"nginx: master process"[..]], Some(1)));
        assert_eq!(list(b""), (vec![], None));
    }

    #[test]
    fn nuls_after_a_title_are_no_arguments() {
        assert_eq!(list(b"redis-server *:1\0\0\0\0"), (vec![&b"redis-server *:1"[..]], None));
        assert_eq!(list(b"\0\0"), (vec![], None));
    }

    #[test]
    fn arguments_are_kept_while_they_fit() {
        let long = [b'x'; 3000];
        let all: [&[u8]; 4] = [b"a", &long, &long, b"b"];
        assert_eq!(fitting(all.into_iter()), [b"a".to_vec(), long.to_vec()]);
        assert_eq!(fitting([&[b'x'; 9000][..]].into_iter()), [vec![b'x'; MAX_ARGUMENT_BYTES - OVERHEAD]]);
        assert_eq!(fitting(std::iter::repeat_n(&b""[..], 100_000)).len(), MAX_ARGUMENT_BYTES / OVERHEAD);
    }
}
