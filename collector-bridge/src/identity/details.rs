//! What is told of a process only when that is wanted: how it was started. Its arguments are in its memory, like its environment.

use acceptd_otlp::Details;

use super::folder::Folder;
use crate::config::Detail;

/// Most bytes of a command line that are looked at. Of a longer one nobody knows how many arguments there are.
const CMDLINE: u64 = 1 << 20;

/// Most bytes of arguments that are kept of one process.
const ROOM: usize = 4 << 10;

/// Looks into a process for what is wanted.
pub(super) fn of(folder: &Folder, wanted: &[Detail]) -> Details {
    let wants = |detail| wanted.contains(&detail);
    let needs_arguments = wanted.iter().any(|detail| *detail != Detail::ParentPid);
    let mut details = Details::default();
    if let Some(block) = needs_arguments.then(|| folder.read("cmdline", CMDLINE)).flatten() {
        let arguments = arguments(&block);
        details.command =
            arguments.first().filter(|_| wants(Detail::Command)).map(|first| cut(first).to_vec());
        if wants(Detail::CommandArgs) {
            details.command_args = fitting(&arguments);
        }
        let is_whole = !arguments.is_empty() && (block.len() as u64) < CMDLINE;
        details.args_count =
            u32::try_from(arguments.len()).ok().filter(|_| is_whole && wants(Detail::ArgsCount));
    }
    details.parent_pid = wants(Detail::ParentPid).then(|| folder.parent()).flatten();
    details
}

/// Each with a NUL behind it; a thread of the kernel has none.
fn arguments(block: &[u8]) -> Vec<&[u8]> {
    if block.is_empty() {
        return Vec::new();
    }
    block.strip_suffix(b"\0").unwrap_or(block).split(|&byte| byte == 0).collect()
}

fn cut(argument: &[u8]) -> &[u8] {
    argument.get(..ROOM).unwrap_or(argument)
}

/// As many as there is room for, the first of them cut if need be.
fn fitting(arguments: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut room = ROOM;
    let fits = |argument: &&[u8]| {
        let argument = cut(argument);
        // An empty one takes room, too.
        room = room.checked_sub(argument.len().max(1))?;
        Some(argument.to_vec())
    };
    arguments.iter().map_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::{ROOM, arguments, fitting};

    #[test]
    fn arguments_are_what_is_before_each_nul() {
        assert_eq!(arguments(b"nginx\0-g\0\0daemon off;\0"), [&b"nginx"[..], b"-g", b"", b"daemon off;"]);
        assert_eq!(arguments(b"nginx: master process"), [b"nginx: master process"]);
        assert_eq!(arguments(b""), [b""; 0]);
    }

    #[test]
    fn there_is_room_for_some() {
        let long = [b'x'; 3000];
        assert_eq!(fitting(&[b"a", &long, &long, b"b"]), [b"a".to_vec(), long.to_vec()]);
        assert_eq!(fitting(&[&[b'x'; 9000]]), [vec![b'x'; ROOM]]);
        assert_eq!(fitting(&vec![b"".as_slice(); 100_000]).len(), ROOM);
    }
}
