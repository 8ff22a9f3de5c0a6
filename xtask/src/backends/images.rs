//! The images that docker-compose.yml names, made of the programs that are built here: no registry is asked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::environment::Environment;
use crate::docker::Engine;
use crate::workspace::Workspace;
use crate::{build, collector, command, jaeger, libraries};

/// An image of one program.
struct Image {
    /// Of .env.
    variable: &'static str,
    program: PathBuf,
    /// Where the published image has it.
    place: &'static str,
}

/// Makes all but those that the suite leaves out.
pub(super) fn make(
    workspace: &Workspace,
    engine: &Engine,
    environment: &Environment,
    folder: &Path,
) -> Result<()> {
    let images = [
        Image {
            variable: "COLLECTOR_IMAGE",
            program: collector::build_contrib(workspace)?,
            place: "otelcol-contrib",
        },
        Image {
            variable: "JAEGER_IMAGE",
            program: jaeger::build(workspace)?,
            place: "cmd/jaeger/jaeger-linux",
        },
        Image { variable: "LOKI_IMAGE", program: super::loki::build(workspace)?, place: "usr/bin/loki" },
        Image {
            variable: "PROMETHEUS_IMAGE",
            program: super::prometheus::build(workspace)?,
            place: "bin/prometheus",
        },
    ];
    for Image { variable, program, place } in &images {
        let root = folder.join(variable);
        with_libraries(program, &root, place)?;
        if *variable == "PROMETHEUS_IMAGE" {
            // Its own has a busybox, which docker-compose.yml asks how it is.
            with_libraries(Path::new("/bin/busybox"), &root, "bin/wget")?;
        }
        engine.import(&root, &[format!("ENTRYPOINT [\"/{place}\"]")], environment.value(variable)?)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    // The two that users build, as they do: static programs, on a base that has names of users and no more.
    build::dist(workspace, build::RELEASE, false)?;
    let base = folder.join("base");
    fs::create_dir_all(base.join("etc")).context("making etc")?;
    fs::write(base.join("etc/passwd"), "root:x:0:0::/:/none\nnobody:x:65534:65534::/:/none\n")
        .context("writing passwd")?;
    engine.import(&base, &[], environment.value("BASE_IMAGE")?)?;
    for (target, variable) in [("acceptd", "ACCEPTD_IMAGE"), ("workload", "WORKLOAD_IMAGE")] {
        let mut build =
            engine.docker(&["build", "--quiet", "--file", "packaging/Dockerfile", "--target", target]);
        build.arg("--build-arg").arg(format!("BASE_IMAGE={}", environment.value("BASE_IMAGE")?));
        // The builder of Debian's engine does not know by itself.
        build.arg("--build-arg").arg(format!("TARGETARCH={}", build::this()?.architecture));
        build.args(["--tag", environment.value(variable)?, "."]).env("DOCKER_BUILDKIT", "0");
        build.current_dir(workspace.root());
        command::run(build)?;
    }
    Ok(())
}

/// A program at its place under `root`, and its libraries where it looks for them.
fn with_libraries(program: &Path, root: &Path, place: &str) -> Result<()> {
    for library in libraries::of(program)? {
        build::copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    build::copy(program, &root.join(place))
}
