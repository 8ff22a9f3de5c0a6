//! The images that docker-compose.yml names, made of the programs that are built here: no registry is asked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{elasticsearch, environment::Environment};
use crate::{build, collector, command, docker::Engine, jaeger, libraries, workspace::Workspace};

/// What users build their two of.
pub(super) const DOCKERFILE: &str = "packaging/Dockerfile";
/// Its targets, the variable of .env that names what each becomes, and a service of docker-compose.yml that builds it.
pub(super) const BUILT: [(&str, &str, &str); 2] =
    [("acceptd", "ACCEPTD_IMAGE", "check"), ("workload", "WORKLOAD_IMAGE", "backends")];

/// Whose own have a busybox, by which docker-compose.yml asks how they are.
const WITH_BUSYBOX: [&str; 3] = ["JAEGER_IMAGE", "PROMETHEUS_IMAGE", "VICTORIALOGS_IMAGE"];

/// An image of one program.
struct Image {
    /// Of .env.
    variable: &'static str,
    program: PathBuf,
    /// Where the published image has it.
    place: &'static str,
}

/// Makes those that the suite runs; without `full` of programs that are built sooner, and need libraries.
pub(super) fn make(
    workspace: &Workspace,
    engine: &Engine,
    environment: &Environment,
    folder: &Path,
    full: bool,
) -> Result<()> {
    let collector = if full { collector::build_contrib(workspace)? } else { collector::build(workspace)? };
    let mut images = vec![
        Image { variable: "COLLECTOR_IMAGE", program: collector, place: "otelcol-contrib" },
        Image {
            variable: "VICTORIALOGS_IMAGE",
            program: super::victoria_logs::build(workspace)?,
            place: "victoria-logs-prod",
        },
    ];
    if full {
        images.extend([
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
            Image {
                variable: "ELASTIC_COLLECTOR_IMAGE",
                program: collector::build_elastic(workspace)?,
                place: "otelcol-contrib",
            },
        ]);
    }
    for Image { variable, program, place } in &images {
        let root = folder.join(variable);
        with_libraries(program, &root, place)?;
        if WITH_BUSYBOX.contains(variable) {
            with_libraries(Path::new("/bin/busybox"), &root, "bin/wget")?;
        }
        engine.import(&root, &[format!("ENTRYPOINT [\"/{place}\"]")], environment.value(variable)?)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    if full {
        let root = folder.join("elasticsearch");
        let run = elasticsearch::image::fill(&root)?;
        engine.import(&root, &run, environment.value("ELASTICSEARCH_IMAGE")?)?;
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    }
    of_users(workspace, engine, environment, folder, full)
}

/// The two that users build, by [`DOCKERFILE`]; on a base that has names of users, and what libraries the programs need.
fn of_users(
    workspace: &Workspace,
    engine: &Engine,
    environment: &Environment,
    folder: &Path,
    full: bool,
) -> Result<()> {
    let architecture = build::this()?.architecture;
    // What is made here has another digest than the published one.
    let (base_image, _) =
        environment.value("BASE_IMAGE")?.split_once('@').context("BASE_IMAGE has no digest")?;
    let (base, mut context) = (folder.join("base"), workspace.root().to_path_buf());
    if full {
        build::dist(workspace, build::RELEASE, false)?;
    } else {
        let built = build::suites(workspace, build::QUICK)?;
        context = folder.join("context");
        // A target is of the program of its name.
        for (program, ..) in BUILT {
            let place = format!("target/image/{architecture}/{program}");
            build::copy(&built.join(program), &context.join(place))?;
            libraries::copy(&built.join(program), &base)?;
        }
    }
    fs::create_dir_all(base.join("etc")).context("making etc")?;
    fs::write(base.join("etc/passwd"), "root:x:0:0::/:/none\nnobody:x:65534:65534::/:/none\n")
        .context("writing passwd")?;
    engine.import(&base, &[], base_image)?;
    for (target, variable, _) in BUILT {
        let mut build = engine.docker(&["build", "--quiet", "--target", target]);
        build.arg("--file").arg(workspace.path(DOCKERFILE));
        build.arg("--build-arg").arg(format!("BASE_IMAGE={base_image}"));
        // The builder of Debian's engine does not know by itself.
        build.arg("--build-arg").arg(format!("TARGETARCH={architecture}"));
        build.args(["--tag", environment.value(variable)?]).arg(&context).env("DOCKER_BUILDKIT", "0");
        command::run(build)?;
    }
    Ok(())
}

/// A program at its place under `root`, and its libraries where it looks for them.
fn with_libraries(program: &Path, root: &Path, place: &str) -> Result<()> {
    libraries::copy(program, root)?;
    build::copy(program, &root.join(place))
}
