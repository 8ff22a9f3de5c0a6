//! The image that Elastic publishes, as far as docker-compose.yml asks for it: the server with its Java, settings by variables, and a
//! shell and curl for what asks it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{apt, build, command, libraries};

const HOME: &str = "usr/share/elasticsearch";
const ENTRYPOINT: &str = "usr/local/bin/docker-entrypoint.sh";
/// A variable whose name has a dot is a setting.
const SCRIPT: &str = "#!/bin/bash
set -eu
options=()
while IFS= read -r -d '' variable; do
  if [[ ${variable%%=*} =~ ^[a-z0-9_]+(\\.[a-z0-9_]+)+$ ]]; then options+=(\"-E$variable\"); fi
done < /proc/self/environ
exec /usr/share/elasticsearch/bin/elasticsearch \"${options[@]}\"
";
const SETTINGS: &str = "network.host: 0.0.0.0\ncluster.routing.allocation.disk.threshold_enabled: false\n";
/// What its scripts call.
const TOOLS: [&str; 8] = ["basename", "cat", "dirname", "env", "expr", "ls", "sh", "uname"];

/// Fills the root of an image; returns how it is run.
pub(crate) fn fill(root: &Path) -> Result<Vec<String>> {
    let home = root.join(HOME);
    let (java, jdk) = (super::java_home()?, home.join("jdk"));
    fs::create_dir_all(&home).context("making its home")?;
    for part in ["bin", "lib", "modules"] {
        copy_all(&super::unpacked()?.join(part), &home)?;
    }
    build::copy(&java.join("bin/java"), &jdk.join("bin/java"))?;
    for part in ["lib", "conf"] {
        copy_all(&java.join(part), &jdk)?;
    }
    for folder in ["config", "data", "logs", "plugins"] {
        fs::create_dir_all(home.join(folder)).with_context(|| format!("making {folder}"))?;
    }
    super::configure(&home.join("config"), SETTINGS)?;
    let mut programs = vec![java.join("bin/java"), java.join("lib/server/libjvm.so")];
    for entry in java.join("lib").read_dir().context("listing Java's libraries")? {
        programs.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|end| end == "so")));
    }
    apt::require("curl", "--version", "curl")?;
    for tool in ["/bin/bash", "/usr/bin/curl", "/bin/busybox"] {
        build::copy(Path::new(tool), &root.join(tool.trim_start_matches('/')))?;
        programs.push(tool.into());
    }
    for program in programs {
        libraries::copy(&program, root)?;
    }
    for tool in TOOLS {
        symlink("/bin/busybox", root.join("usr/bin").join(tool)).with_context(|| tool.to_owned())?;
    }
    for folder in ["etc", "tmp", "usr/local/bin"] {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("making {folder}"))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).context("opening tmp")?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/none\nelasticsearch:x:1000:0::/:/none\n")
        .context("writing passwd")?;
    fs::write(root.join(ENTRYPOINT), SCRIPT).context("writing its entry point")?;
    fs::set_permissions(root.join(ENTRYPOINT), fs::Permissions::from_mode(0o755)).context("its mode")?;
    let mut own = Command::new("chown");
    own.args(["--recursive", "1000:0"]).arg(&home);
    command::run(own)?;
    Ok(vec![
        format!("ENTRYPOINT [\"/{ENTRYPOINT}\"]"),
        "ENV PATH=/usr/bin:/bin".to_owned(),
        "USER 1000:0".to_owned(),
    ])
}

/// A folder, with what links lead to in place of them; one that leads nowhere, as Java's to its sources, is left out.
fn copy_all(folder: &Path, to: &Path) -> Result<()> {
    let to = to.join(folder.file_name().context("a folder without a name")?);
    fs::create_dir_all(&to).with_context(|| format!("making {}", to.display()))?;
    let mut copy = Command::new("cp");
    copy.args(["--recursive", "--dereference", "--target-directory"]).arg(to);
    for entry in folder.read_dir().with_context(|| format!("listing {}", folder.display()))? {
        copy.args(Some(entry?.path()).filter(|path| path.exists()));
    }
    command::run(copy)
}
