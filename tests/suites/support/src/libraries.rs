//! The shared libraries that a program needs, by `ldd`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::files;

/// Paths of a program's shared libraries on this host, including the loader. A static program has none.
///
/// # Errors
/// When `ldd` cannot be run, or fails.
pub fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let about = || format!("ldd {}", program.display());
    let answer = Command::new("ldd").arg(program).output().with_context(about)?;
    if !answer.status.success() {
        let why = String::from_utf8_lossy(&answer.stderr);
        if why.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!("{}: {}", about(), why.trim_end());
    }
    Ok(String::from_utf8_lossy(&answer.stdout).lines().filter_map(library).map(PathBuf::from).collect())
}

/// Copies a program's shared libraries to the same paths below `root`.
///
/// # Errors
/// Those of [`libraries_of`] and of copying.
pub fn copy_libraries(program: &Path, root: &Path) -> Result<()> {
    for library in libraries_of(program)? {
        files::copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    Ok(())
}

/// The path in a line of ldd: `libc.so.6 => /lib/libc.so.6 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::library;

    #[test]
    fn a_line_of_ldd_has_one_path_or_none() {
        assert_eq!(library("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)"), Some("/lib/x/libc.so.6"));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(library("\tstatically linked"), None);
    }
}
