//! The committed results of a suite: docs/results/SUITE.md.

use std::process::Command;

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::{Workspace, command::capture};

/// Writes a suite's figures below a table with the commit, the kernel and the date of the run, and with
/// `facts`. Sections of [`write_section`] stay.
///
/// # Errors
/// When the kernel's release cannot be read, or the file cannot be written.
pub fn write(
    workspace: &Workspace,
    suite: &str,
    title: &str,
    facts: &[(&str, String)],
    figures: &str,
) -> Result<()> {
    let rows = rows(workspace, facts)?;
    let figures = figures.trim_end();
    let file = format!("docs/results/{suite}.md");
    let sections = sections_of(&std::fs::read_to_string(workspace.path(&file)).unwrap_or_default());
    let text = format!(
        "# {title}\n\nWritten by `cargo xtask {suite} --full`.\n\n{rows}\n\n```\n{figures}\n```\n{sections}"
    );
    std::fs::write(workspace.path(&file), text).with_context(|| format!("writing {file}"))?;
    println!("wrote {file}");
    Ok(())
}

/// Writes a section of a suite's figures, with the commit, the kernel and the date of the run, and keeps the
/// rest of the file. `text` is Markdown.
///
/// # Errors
/// When the kernel's release cannot be read, or the file cannot be written.
pub fn write_section(workspace: &Workspace, suite: &str, title: &str, text: &str) -> Result<()> {
    let file = format!("docs/results/{suite}.md");
    let path = workspace.path(&file);
    let before = std::fs::read_to_string(&path).with_context(|| format!("reading {file}"))?;
    let section = format!("## {title}\n\n{}\n\n{}\n", rows(workspace, &[])?, text.trim_end());
    std::fs::write(path, with_section(&before, title, &section))
        .with_context(|| format!("writing {file}"))?;
    println!("wrote the section {title:?} of {file}");
    Ok(())
}

/// The table with the commit, the kernel and the date of the run, and with `facts`.
fn rows(workspace: &Workspace, facts: &[(&str, String)]) -> Result<String> {
    // A repository without a commit has no name for it; the figures are still worth keeping.
    let commit = commit(workspace).unwrap_or_else(|_| "uncommitted".to_owned());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let all = [("commit", commit), ("kernel", kernel.trim().to_owned()), ("date", date)];
    let rows: Vec<String> =
        all.iter().chain(facts).map(|(name, value)| format!("| {name} | {value} |")).collect();
    Ok(format!("| | |\n|---|---|\n{}", rows.join("\n")))
}

/// Everything from the first section on, after an empty line.
fn sections_of(text: &str) -> String {
    text.find("\n## ").map(|start| text[start..].to_owned()).unwrap_or_default()
}

/// The text with a section replaced, or added at the end.
fn with_section(text: &str, title: &str, section: &str) -> String {
    let heading = format!("\n## {title}\n");
    let Some(start) = text.find(&heading) else { return format!("{text}\n{section}") };
    let after = &text[start + heading.len()..];
    let rest = after.find("\n## ").map_or("", |end| &after[end..]);
    format!("{}\n{section}{rest}", &text[..start])
}

/// The commit that was run, with `-dirty` if tracked files differ from it. Files under docs/results do not
/// count: the suites themselves write them.
fn commit(workspace: &Workspace) -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(workspace.root());
        capture(git)
    };
    let commit = git(&["describe", "--always", "--abbrev=12"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/results"])?;
    Ok(if changed.is_empty() { commit } else { commit + "-dirty" })
}

#[cfg(test)]
mod tests {
    use super::{sections_of, with_section};

    #[test]
    fn a_section_is_added_and_replaced() {
        let first = with_section("# a\n", "b", "## b\n\n1\n");
        assert_eq!(first, "# a\n\n## b\n\n1\n");
        let second = with_section(&first, "c", "## c\n\n2\n");
        assert_eq!(second, "# a\n\n## b\n\n1\n\n## c\n\n2\n");
        assert_eq!(with_section(&second, "b", "## b\n\n3\n"), "# a\n\n## b\n\n3\n\n## c\n\n2\n");
        assert_eq!(sections_of(&second), "\n## b\n\n1\n\n## c\n\n2\n");
        assert_eq!(sections_of("# a\n"), "");
    }
}
