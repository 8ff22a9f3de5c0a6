//! A private apt under target/vm, with all Debian suites that have kernels and for both architectures. The
//! host's own apt is not changed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use xtask_support::command;

use super::mirror;

/// Debian's suites, from the oldest kernel to the newest.
const SUITES: [&str; 6] = ["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];

/// How old package lists may be; kernels are replaced every few days.
const MAX_LIST_AGE: Duration = Duration::from_hours(24);

/// The package lists, and the downloaded packages.
pub(super) struct Archive {
    config: PathBuf,
    packages: PathBuf,
    names: Vec<String>,
}

impl Archive {
    /// Sets it up below `folder`, and updates the lists if they are older than a day.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let own = folder.join("apt");
        let packages = folder.join("packages");
        for needed in [own.join("lists/partial"), own.join("cache/archives/partial"), packages.clone()] {
            std::fs::create_dir_all(&needed).with_context(|| format!("creating {}", needed.display()))?;
        }
        let config = own.join("apt.conf");
        let path = own.display();
        // Sandbox::User: the default user _apt may not be able to enter the checkout.
        let settings = format!(
            "Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State::lists \"{path}/lists\";\nDir::Cache \"{path}/cache\";\n\
             APT::Architectures \"amd64,arm64\";\nAPT::Sandbox::User \"root\";\n"
        );
        std::fs::write(&config, settings).context("writing apt's settings")?;
        std::fs::write(own.join("sources.list"), mirror::sources(&mirror::find()?, &SUITES))
            .context("writing apt's sources")?;
        let mut archive = Self { config, packages, names: Vec::new() };
        archive.update(&own.join("updated"))?;
        let mut ask = archive.apt("apt-cache");
        ask.args(["pkgnames", "linux-"]);
        archive.names = command::capture(ask)?.lines().map(str::to_owned).collect();
        Ok(archive)
    }

    fn update(&self, stamp: &Path) -> Result<()> {
        let age = std::fs::metadata(stamp)
            .and_then(|file| file.modified())
            .map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        if age.is_ok_and(|age| age < MAX_LIST_AGE) {
            return Ok(());
        }
        eprintln!("downloading the package lists of {} (about 90 MB)", SUITES.join(", "));
        let mut update = self.apt("apt-get");
        update.args(["-qq", "update"]);
        // Not an error: one suite may have been archived. Selecting a kernel fails if its list is missing.
        if let Err(error) = command::run(update) {
            eprintln!("not all package lists could be downloaded: {error:#}");
            return Ok(());
        }
        std::fs::write(stamp, "").context("writing the time of the update")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).current_dir(&self.packages);
        command
    }

    /// The names of all packages that begin with `linux-`.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Downloads packages that are not there yet, and returns their files. One call for all packages: apt
    /// needs seconds to read its lists.
    pub(super) fn download(&self, names: &[String], architecture: &str) -> Result<Vec<PathBuf>> {
        let wanted: Vec<String> = names.iter().map(|name| format!("{name}:{architecture}")).collect();
        let mut ask = self.apt("apt-get");
        ask.args(["download", "-qq", "--print-uris"]).args(&wanted);
        // In another folder than the packages: apt does not print the URI of a file in its working directory.
        ask.current_dir(self.config.parent().unwrap_or(&self.packages));
        let found = files(&command::capture(ask)?);
        if found.len() != names.len() {
            bail!("apt does not know where to download {}, only {found:?}", names.join(", "));
        }
        let is_there = |(file, size): &(String, u64)| {
            std::fs::metadata(self.packages.join(file)).is_ok_and(|there| there.len() == *size)
        };
        let missing: Vec<&(String, u64)> = found.iter().filter(|package| !is_there(package)).collect();
        for (file, size) in &missing {
            eprintln!("downloading {file}, {} MB", size.div_ceil(1_000_000));
        }
        if !missing.is_empty() {
            let mut get = self.apt("apt-get");
            get.args(["download", "-qq"]).args(&wanted);
            command::run(get)?;
        }
        Ok(found.iter().map(|(file, _)| self.packages.join(file)).collect())
    }
}

/// Files and sizes in the output of `--print-uris`, which has lines `'URI' FILE SIZE HASH`.
fn files(answer: &str) -> Vec<(String, u64)> {
    let parse_line = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    answer.lines().filter_map(parse_line).collect()
}

/// Unpacks a package into `folder`.
pub(super) fn unpack(package: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(package).arg(folder);
    command::capture(unpack).map(drop)
}

#[cfg(test)]
mod tests {
    use super::files;

    #[test]
    fn a_line_for_each_package() {
        let answer = "'http://mirror.example/a_1_amd64.deb' a_1_amd64.deb 1928 SHA256:00\n\
            'http://mirror.example/b.deb' b_1%3a2_amd64.deb 7 SHA256:00\n";
        let expected = [("a_1_amd64.deb".to_owned(), 1928), ("b_1%3a2_amd64.deb".to_owned(), 7)];
        assert_eq!(files(answer), expected);
        assert_eq!(files(""), []);
    }
}
