//! The paths of UNIX listeners. The kernel keeps the name that a socket was bound to, which may be relative
//! to an unknown directory, or the name of a file that was renamed since. A survey also knows the path that
//! the file has now.

use std::collections::HashMap;

use acceptd_common::UnixName;
use zerocopy::FromZeros as _;

use super::kernel_path::{basename, strip_deleted};

/// The listeners whose path differs from the name that they were bound to.
#[derive(Debug, Clone, Default)]
pub struct UnixPaths {
    by_inode: HashMap<u64, UnixName>,
    /// The same by bound name; `None` if several listeners with different paths have this name.
    by_name: HashMap<Vec<u8>, Option<UnixName>>,
}

impl UnixPaths {
    /// Notes a listener that was bound to `bound`, and whose file is at `present` now. Returns the name to
    /// show.
    pub(super) fn add(&mut self, inode: u64, bound: &UnixName, present: &UnixName) -> UnixName {
        let Some(path) = better_name(used(bound), used(present)) else { return *bound };
        let mut name = UnixName::new_zeroed();
        // A path's count includes its final NUL, and is never longer than `present` was.
        name.bytes[..path.len()].copy_from_slice(path);
        name.length = u32::try_from(path.len() + 1).unwrap_or_default();
        self.by_inode.insert(inode, name);
        self.by_name
            .entry(used(bound).to_vec())
            .and_modify(|known| *known = known.filter(|known| *known == name))
            .or_insert(Some(name));
        name
    }

    /// The path of a listener that was bound to `bound`, if it differs from that. `inode` is 0 if the
    /// listener is not known.
    #[must_use]
    pub fn find(&self, inode: u64, bound: &UnixName) -> Option<UnixName> {
        match inode {
            0 => self.by_name.get(used(bound)).copied().flatten(),
            inode => self.by_inode.get(&inode).copied(),
        }
    }
}

/// The bytes of a name, those of a path without its final NUL.
fn used(name: &UnixName) -> &[u8] {
    match name.used() {
        [path @ .., 0] if name.bytes[0] != 0 => path,
        whole => whole,
    }
}

/// The path at which a socket that was bound to `bound` is found now; `None` if `bound` says that already. An
/// absolute name stays if only directories differ: then a symbolic link or a chroot led there.
fn better_name<'a>(bound: &[u8], present: &'a [u8]) -> Option<&'a [u8]> {
    let is_path = bound.first().is_some_and(|first| *first != 0) && present.starts_with(b"/");
    let path = match strip_deleted(present) {
        Some(path) if strip_deleted(bound).is_none() => path,
        _ => present,
    };
    let is_absolute = bound.starts_with(b"/");
    (is_path && !(is_absolute && basename(bound) == basename(path))).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &[u8]) -> UnixName {
        let mut name = UnixName::new_zeroed();
        name.bytes[..text.len()].copy_from_slice(text);
        name.length = u32::try_from(text.len() + 1).expect("short");
        name
    }

    #[test]
    fn relative_and_renamed_names_become_paths() {
        for (bound, present, shown) in [
            (
                &b"private/smtp"[..],
                &b"/var/spool/postfix/private/smtp"[..],
                Some(&b"/var/spool/postfix/private/smtp"[..]),
            ),
            (b"./x", b"/srv/x (deleted)", Some(b"/srv/x")),
            (b"@x", b"/srv/@x", Some(b"/srv/@x")),
            (b"/run/ha.sock.7.tmp", b"/run/ha.sock", Some(b"/run/ha.sock")),
            // A symbolic link, a chroot, and a file that the next server replaced.
            (b"/var/run/x.sock", b"/run/x.sock", None),
            (b"/x.sock", b"/jail/x.sock", None),
            (b"/run/x.sock", b"/run/x.sock (deleted)", None),
            (b"/run/x (deleted)", b"/run/x (deleted)", None),
            // The path is too long for the survey.
            (b"x", b"", None),
        ] {
            assert_eq!(better_name(bound, present), shown, "{}", bound.escape_ascii());
        }
        assert_eq!(better_name(b"\0abstract", b""), None);
    }

    #[test]
    fn a_name_that_two_listeners_have_leads_to_none() {
        let mut paths = UnixPaths::default();
        assert_eq!(paths.add(1, &name(b"x"), &name(b"/a/x")), name(b"/a/x"));
        assert_eq!(paths.find(0, &name(b"x")), Some(name(b"/a/x")));
        paths.add(2, &name(b"x"), &name(b"/b/x"));
        assert_eq!(paths.find(0, &name(b"x")), None);
        assert_eq!(paths.find(2, &name(b"x")), Some(name(b"/b/x")));
        assert_eq!(paths.find(3, &name(b"x")), None);
    }
}
