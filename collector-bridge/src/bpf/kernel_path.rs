//! Paths as the kernel writes them.

/// The suffix that the kernel adds to the path of a file that was removed or replaced (`fs/d_path.c`).
const DELETED: &[u8] = b" (deleted)";

/// The path without the suffix of a removed file; `None` if it has none.
pub(super) fn strip_deleted(path: &[u8]) -> Option<&[u8]> {
    path.strip_suffix(DELETED)
}

/// The path without the suffix of a removed file.
pub(crate) fn without_deleted(path: &[u8]) -> &[u8] {
    strip_deleted(path).unwrap_or(path)
}

/// The part after the last slash.
pub(crate) fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_file_keeps_its_name() {
        assert_eq!(without_deleted(b"/usr/sbin/nginx (deleted)"), b"/usr/sbin/nginx");
        assert_eq!(without_deleted(b"/usr/sbin/nginx"), b"/usr/sbin/nginx");
    }

    #[test]
    fn a_name_is_what_follows_the_last_slash() {
        for (path, name) in [(&b"/usr/sbin/nginx"[..], &b"nginx"[..]), (b"x", b"x"), (b"a/", b""), (b"", b"")]
        {
            assert_eq!(basename(path), name);
        }
    }
}
