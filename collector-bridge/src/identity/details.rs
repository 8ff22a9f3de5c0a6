//! What is told of a process only when that is wanted: how it was started. Its arguments are in its memory, like its environment.

use acceptd_otlp::Details;

use super::folder::Folder;
use crate::config::Detail;

/// Most bytes of a command line that are looked at. Of a longer one nobody knows how many arguments there are.
const CMDLINE: u64 = 1 << 20;

/// Most bytes of arguments that are kept of one process, each with what it takes to keep it.
const ROOM: usize = 4 << 10;
const KEEPING: usize = 64;

/// Looks into a process for what is wanted.
pub(super) fn of(folder: &Folder, wanted: &[Detail]) -> Details {
    let wants = |detail| wanted.contains(&detail);
    let needs_arguments = wanted.iter().any(|detail| *detail != Detail::ParentPid);
    let mut details = Details::default();
    if let Some(block) = needs_arguments.then(|| folder.read("cmdline", CMDLINE)).flatten() {
        let (arguments, count) = arguments(&block);
        details.command =
            arguments.clone().next().filter(|_| wants(Detail::Command)).map(|first| cut(first).to_vec());
        if wants(Detail::CommandArgs) {
            details.command_args = fitting(arguments);
        }
        let is_whole = (block.len() as u64) < CMDLINE;
        details.args_count = count.filter(|_| is_whole && wants(Detail::ArgsCount));
    }
    details.parent_pid = wants(Detail::ParentPid).then(|| folder.parent()).flatten();
    details
}

/// Each with a NUL behind it, and how many there are, if that is known: a program that writes its title over its arguments leaves
/// NULs behind it, which look like empty ones. A thread of the kernel has none.
fn arguments(block: &[u8]) -> (impl Iterator<Item = &[u8]> + Clone, Option<u32>) {
    let used = block.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let (used, behind) = block.split_at(used);
    let arguments = used.split(|&byte| byte == 0).filter(|_| !used.is_empty());
    let is_known = !used.is_empty() && behind.len() <= 1;
    let count = is_known.then(|| u32::try_from(arguments.clone().count()).ok()).flatten();
    (arguments, count)
}

fn cut(argument: &[u8]) -> &[u8] {
    argument.get(..ROOM - KEEPING).unwrap_or(argument)
}

/// As many as there is room for, the first of them cut if need be.
fn fitting<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut room = ROOM;
    let fits = |argument: &'a [u8]| {
        let argument = cut(argument);
        room = room.checked_sub(argument.len() + KEEPING)?;
        Some(argument.to_vec())
    };
    arguments.map_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::{KEEPING, ROOM, arguments, fitting};

    fn list(block: &[u8]) -> (Vec<&[u8]>, Option<u32>) {
        let (all, count) = arguments(block);
        (all.collect(), count)
    }

    #[test]
    fn arguments_are_what_is_before_each_nul() {
        let expected = [&b"nginx"[..], b"-g", b"", b"daemon off;"];
        assert_eq!(list(b"nginx\0-g\0\0daemon off;\0"), (expected.to_vec(), Some(4)));
        assert_eq!(list(b"nginx: master process"), (vec![&b"nginx: master process"[..]], Some(1)));
        assert_eq!(list(b""), (vec![], None));
    }

    #[test]
    fn what_is_behind_a_title_are_no_arguments() {
        assert_eq!(list(b"redis-server *:1\0\0\0\0"), (vec![&b"redis-server *:1"[..]], None));
        assert_eq!(list(b"\0\0"), (vec![], None));
    }

    #[test]
    fn there_is_room_for_some() {
        let long = [b'x'; 3000];
        let all: [&[u8]; 4] = [b"a", &long, &long, b"b"];
        assert_eq!(fitting(all.into_iter()), [b"a".to_vec(), long.to_vec()]);
        assert_eq!(fitting([&[b'x'; 9000][..]].into_iter()), [vec![b'x'; ROOM - KEEPING]]);
        assert_eq!(fitting(std::iter::repeat_n(&b""[..], 100_000)).len(), ROOM / KEEPING);
    }
}
