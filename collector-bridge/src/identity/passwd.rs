//! Names of users, from the host's passwd file. NSS is not used: it can block on a network directory, and a
//! static binary has none.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Most lines read of the file, to bound memory.
const USERS: usize = 65_536;

/// The users in a passwd file. The file is read again when its modification time changes.
#[derive(Debug)]
pub(super) struct Users {
    file: PathBuf,
    read_at: Option<SystemTime>,
    names: HashMap<u32, String>,
}

impl Users {
    /// The users of the host whose files are under `root`.
    #[must_use]
    pub(super) fn from_host_root(root: &Path) -> Self {
        Self { file: root.join("etc/passwd"), read_at: None, names: HashMap::new() }
    }

    /// The name of a user; `None` if the file does not have the user.
    pub(super) fn name(&mut self, uid: u32) -> Option<&str> {
        let modified = fs::metadata(&self.file).and_then(|metadata| metadata.modified()).ok();
        if modified != self.read_at {
            self.names = fs::read(&self.file).map(|bytes| parse(&bytes)).unwrap_or_default();
            self.read_at = modified;
        }
        self.names.get(&uid).map(String::as_str)
    }
}

/// Parses lines of `name:password:uid:…`. The first line with a uid wins, as in getpwuid(3).
fn parse(bytes: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(bytes).lines().take(USERS) {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next(), fields.nth(1).and_then(|uid| uid.parse().ok()));
        if let (Some(name), Some(uid)) = (name, uid)
            && !name.is_empty()
        {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_first_line_of_a_uid() {
        let names = parse(
            b"root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\n\nbroken\n:x:5:5\nwww-data:x:33:33:::\nx:y:-1:\n",
        );
        assert_eq!(names.get(&0).map(String::as_str), Some("root"));
        assert_eq!(names.get(&33).map(String::as_str), Some("www-data"));
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(root.path().join("etc")).expect("an empty folder");
        let mut users = Users::from_host_root(root.path());
        assert_eq!(users.name(7), None);
        fs::write(root.path().join("etc/passwd"), "seven:x:7:7:::\n").expect("writable");
        assert_eq!(users.name(7), Some("seven"));
    }
}
