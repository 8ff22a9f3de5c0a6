//! Makes the images of docker-compose.yml from programs that xtask built, so that the suite needs no
//! registry.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use xtask_support::{External, command, files, libraries::copy_libraries};

use super::{elasticsearch, environment::Environment};
use crate::{docker::Engine, suite::Suite};

/// The Dockerfile from which users build the images of [`BUILT`].
pub(super) const DOCKERFILE: &str = "packaging/Dockerfile";
/// For each image: the target of the Dockerfile, which is also the name of its program; the variable of .env
/// with the name of the image; and the service of docker-compose.yml that builds it.
pub(super) const BUILT: [(&str, &str, &str); 2] =
    [("acceptd", "ACCEPTD_IMAGE", "check"), ("workload", "WORKLOAD_IMAGE", "backends")];

/// The images that contain busybox, whose `wget` runs the health checks of docker-compose.yml.
const WITH_BUSYBOX: [&str; 3] = ["JAEGER_IMAGE", "PROMETHEUS_IMAGE", "VICTORIALOGS_IMAGE"];

/// An image with one program.
struct ProgramImage {
    /// The variable of .env with the name of the image.
    variable: &'static str,
    program: External,
    /// The program's path in the published image.
    path: &'static str,
}

/// Makes the images that the suite runs: all of them, or without `full` only those whose programs the quick
/// suite builds. The quick suite's programs are linked dynamically.
pub(super) fn make(
    suite: &Suite,
    engine: &Engine,
    environment: &Environment,
    folder: &Path,
    full: bool,
) -> Result<()> {
    let collector = if full { External::CollectorContrib } else { External::Collector };
    let mut images = vec![
        ProgramImage { variable: "COLLECTOR_IMAGE", program: collector, path: "otelcol-contrib" },
        ProgramImage {
            variable: "VICTORIALOGS_IMAGE",
            program: External::VictoriaLogs,
            path: "victoria-logs-prod",
        },
    ];
    if full {
        images.extend([
            ProgramImage {
                variable: "JAEGER_IMAGE",
                program: External::Jaeger,
                path: "cmd/jaeger/jaeger-linux",
            },
            ProgramImage { variable: "LOKI_IMAGE", program: External::Loki, path: "usr/bin/loki" },
            ProgramImage {
                variable: "PROMETHEUS_IMAGE",
                program: External::Prometheus,
                path: "bin/prometheus",
            },
            ProgramImage {
                variable: "ELASTIC_COLLECTOR_IMAGE",
                program: External::CollectorElastic,
                path: "otelcol-contrib",
            },
        ]);
    }
    for ProgramImage { variable, program, path } in &images {
        let root = folder.join(variable);
        copy_program(suite.external(*program)?, &root, path)?;
        if WITH_BUSYBOX.contains(variable) {
            copy_program(Path::new("/bin/busybox"), &root, "bin/wget")?;
        }
        engine.import(&root, &[format!("ENTRYPOINT [\"/{path}\"]")], environment.value(variable)?)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    if full {
        let root = folder.join("elasticsearch");
        let instructions = elasticsearch::image::fill(suite, &root)?;
        engine.import(&root, &instructions, environment.value("ELASTICSEARCH_IMAGE")?)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    build_from_dockerfile(suite, engine, environment, folder, full)
}

/// Builds the images of [`BUILT`] with [`DOCKERFILE`], on a base image with /etc/passwd and the libraries
/// that the programs need. With `full`, the programs are those that `cargo xtask dist` put into target/image.
fn build_from_dockerfile(
    suite: &Suite,
    engine: &Engine,
    environment: &Environment,
    folder: &Path,
    full: bool,
) -> Result<()> {
    let architecture = docker_architecture()?;
    // The digest is removed: the base image that is made here has another one than the published image.
    let (base_image, _) =
        environment.value("BASE_IMAGE")?.split_once('@').context("BASE_IMAGE has no digest")?;
    let (base, mut context) = (folder.join("base"), suite.workspace.root().to_path_buf());
    if !full {
        context = folder.join("context");
        for (program, ..) in BUILT {
            let path = format!("target/image/{architecture}/{program}");
            files::copy(&suite.program(program), &context.join(path))?;
            copy_libraries(&suite.program(program), &base)?;
        }
    }
    fs::create_dir_all(base.join("etc")).context("creating etc")?;
    fs::write(base.join("etc/passwd"), "root:x:0:0::/:/none\nnobody:x:65534:65534::/:/none\n")
        .context("writing passwd")?;
    engine.import(&base, &[], base_image)?;
    for (target, variable, _) in BUILT {
        let mut build = engine.docker(&["build", "--quiet", "--target", target]);
        build.arg("--file").arg(suite.path(DOCKERFILE));
        build.arg("--build-arg").arg(format!("BASE_IMAGE={base_image}"));
        // The legacy builder of Debian's Docker does not set this argument.
        build.arg("--build-arg").arg(format!("TARGETARCH={architecture}"));
        build.args(["--tag", environment.value(variable)?]).arg(&context).env("DOCKER_BUILDKIT", "0");
        command::run(build)?;
    }
    Ok(())
}

/// Copies a program and its libraries into the root folder of an image.
fn copy_program(program: &Path, root: &Path, path: &str) -> Result<()> {
    copy_libraries(program, root)?;
    files::copy(program, &root.join(path))
}

/// Docker's name of this host's architecture.
fn docker_architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("acceptd runs on x86_64 and aarch64, not on {other}"),
    }
}
