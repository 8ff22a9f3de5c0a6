//! Builds an image that replaces the one of Elastic in docker-compose.yml: the server with its own Java,
//! settings from environment variables, and a shell and curl for the health check.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use xtask_support::{External, command, files, libraries::copy_libraries};

use crate::suite::Suite;

const HOME: &str = "usr/share/elasticsearch";
const ENTRYPOINT: &str = "usr/local/bin/docker-entrypoint.sh";
/// The entry point. Passes each environment variable whose name contains a dot as a setting.
const SCRIPT: &str = "#!/bin/bash
set -eu
options=()
while IFS= read -r -d '' variable; do
  if [[ ${variable%%=*} =~ ^[a-z0-9_]+(\\.[a-z0-9_]+)+$ ]]; then options+=(\"-E$variable\"); fi
done < /proc/self/environ
exec /usr/share/elasticsearch/bin/elasticsearch \"${options[@]}\"
";
const SETTINGS: &str = "network.host: 0.0.0.0\ncluster.routing.allocation.disk.threshold_enabled: false\n";
/// The programs that the scripts of the distribution call; busybox provides them.
const TOOLS: [&str; 8] = ["basename", "cat", "dirname", "env", "expr", "ls", "sh", "uname"];

/// Fills the root folder of the image. Returns the Dockerfile instructions of the image.
pub(crate) fn fill(suite: &Suite, root: &Path) -> Result<Vec<String>> {
    let home = root.join(HOME);
    let (java, jdk) = (super::java_home()?, home.join("jdk"));
    fs::create_dir_all(&home).context("creating the home folder of Elasticsearch")?;
    for part in ["bin", "lib", "modules"] {
        copy_all(&suite.external(External::Elasticsearch)?.join(part), &home)?;
    }
    files::copy(&java.join("bin/java"), &jdk.join("bin/java"))?;
    for part in ["lib", "conf"] {
        copy_all(&java.join(part), &jdk)?;
    }
    for folder in ["config", "data", "logs", "plugins"] {
        fs::create_dir_all(home.join(folder)).with_context(|| format!("creating {folder}"))?;
    }
    super::configure(&home.join("config"), SETTINGS)?;
    let mut programs = vec![java.join("bin/java"), java.join("lib/server/libjvm.so")];
    for entry in java.join("lib").read_dir().context("listing Java's libraries")? {
        programs.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|end| end == "so")));
    }
    for tool in ["/bin/bash", "/usr/bin/curl", "/bin/busybox"] {
        files::copy(Path::new(tool), &root.join(tool.trim_start_matches('/')))?;
        programs.push(tool.into());
    }
    for program in programs {
        copy_libraries(&program, root)?;
    }
    for tool in TOOLS {
        symlink("/bin/busybox", root.join("usr/bin").join(tool)).with_context(|| tool.to_owned())?;
    }
    for folder in ["etc", "tmp", "usr/local/bin"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("creating {folder}"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .context("setting the mode of tmp")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/none\nelasticsearch:x:1000:0::/:/none\n")
        .context("writing passwd")?;
    fs::write(root.join(ENTRYPOINT), SCRIPT).context("writing the entry point")?;
    fs::set_permissions(root.join(ENTRYPOINT), fs::Permissions::from_mode(0o755))
        .context("setting the mode of the entry point")?;
    let mut chown = Command::new("chown");
    chown.args(["--recursive", "1000:0"]).arg(&home);
    command::run(chown)?;
    Ok(vec![
        format!("ENTRYPOINT [\"/{ENTRYPOINT}\"]"),
        "ENV PATH=/usr/bin:/bin".to_owned(),
        "USER 1000:0".to_owned(),
    ])
}

/// Copies a folder into `to` and follows symbolic links. Skips broken links, such as the one to Java's
/// sources.
fn copy_all(folder: &Path, to: &Path) -> Result<()> {
    let to = to.join(folder.file_name().context("a folder without a name")?);
    fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
    let mut copy = Command::new("cp");
    copy.args(["--recursive", "--dereference", "--target-directory"]).arg(to);
    for entry in folder.read_dir().with_context(|| format!("listing {}", folder.display()))? {
        copy.args(Some(entry?.path()).filter(|path| path.exists()));
    }
    command::run(copy)
}
