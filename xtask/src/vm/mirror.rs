//! Finds the Debian mirror in the host's apt configuration, so that no host name is needed here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Suites that only Debian's main archive has. `bookworm-security` belongs to another archive.
const SUITES: [&str; 10] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "stable",
    "oldstable",
    "testing",
    "unstable",
    "oldoldstable",
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The URI of the main archive in apt's configuration.
pub(super) fn find() -> Result<String> {
    let etc = Path::new("/etc/apt");
    let mut files = vec![etc.join("sources.list")];
    let parts = std::fs::read_dir(etc.join("sources.list.d"))
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<PathBuf>>());
    files.extend(parts.unwrap_or_default());
    files.sort();
    files
        .iter()
        .filter_map(|file| Some((file, std::fs::read_to_string(file).ok()?)))
        .find_map(|(file, text)| match file.extension()?.to_str()? {
            "sources" => find_in_stanzas(&text),
            "list" => find_in_lines(&text),
            _ => None,
        })
        .context("apt's configuration has no mirror of Debian, which has the kernels: run this on Debian")
}

/// The text of a sources.list with these suites of a mirror.
pub(super) fn sources(uri: &str, suites: &[&str]) -> String {
    let line = |suite: &&str| format!("deb [signed-by={KEYRING}] {uri} {suite} main");
    suites.iter().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// The mirror in a `*.sources` file (deb822): stanzas of fields; indented lines continue a field.
fn find_in_stanzas(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).find_map(|stanza| {
        let field = |name: &str| -> Vec<&str> {
            let mut inside = false;
            let mut words = Vec::new();
            for line in stanza {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        words.extend(line.split_whitespace());
                    }
                } else if let Some((key, value)) = line.split_once(':') {
                    inside = key.eq_ignore_ascii_case(name);
                    if inside {
                        words.extend(value.split_whitespace());
                    }
                }
            }
            words
        };
        let is_off = field("Enabled").first().is_some_and(|word| word.eq_ignore_ascii_case("no"));
        let packages = field("Types").contains(&"deb") && !is_off;
        (packages && is_debian(&field("Suites"), &field("Components")))
            .then(|| field("URIs").first().map(|uri| (*uri).to_owned()))
            .flatten()
    })
}

/// The mirror in a `*.list` file: `deb [options] URI suite component…`.
fn find_in_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let words: Vec<&str> = rest.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        let (uri, rest) = words.split_first()?;
        let (suite, components) = rest.split_first()?;
        is_debian(&[suite], components).then(|| (*uri).to_owned())
    })
}

fn is_debian(suites: &[&str], components: &[&str]) -> bool {
    components.contains(&"main") && suites.iter().any(|suite| SUITES.contains(suite))
}

#[cfg(test)]
mod tests {
    use super::{find_in_lines, find_in_stanzas, sources};

    #[test]
    fn a_stanza_of_the_archive_and_not_that_of_security() {
        let security = "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n";
        let main = "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites:\n bookworm\n bookworm-updates\nComponents: main\n";
        let other = "Types: deb\nURIs: http://other.example/repo\nSuites: bookworm\nComponents: stable\n";
        let all = format!("{security}\n{other}\n{main}");
        assert_eq!(find_in_stanzas(&all).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(find_in_stanzas(security), None);
        assert_eq!(find_in_stanzas(&format!("Enabled: no\n{main}")), None);
    }

    #[test]
    fn a_line_of_the_archive() {
        let text = "# deb http://old.example/debian bookworm main\n\
            deb http://mirror.example/debian-security bookworm-security main\n\
            deb-src http://mirror.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/a.gpg] http://mirror.example/debian bookworm main contrib # ours\n";
        assert_eq!(find_in_lines(text).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(find_in_lines("deb http://other.example/repo nodistro main\n"), None);
    }

    #[test]
    fn one_line_for_each_suite() {
        let text = sources("http://mirror.example/debian", &["bookworm", "sid"]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with(" http://mirror.example/debian sid main\n"));
    }
}
