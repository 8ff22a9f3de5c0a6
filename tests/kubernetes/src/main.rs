//! Renders packaging/kubernetes with kustomize, and validates the objects by the Kubernetes schemas in
//! tests/kubernetes/schemas. The overlay that packaging/kubernetes/README.md shows to users is rendered and
//! validated, too. `cargo xtask kubernetes` builds kustomize, and starts this program with its path.
#![forbid(unsafe_code)]

mod objects;
mod overlay;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use objects::{text_of, title_of};
use overlay::Overlay;
use serde_json::Value;
use xtask_support::{Workspace, command};

/// The folders that a user can apply.
const APPLIED: [&str; 2] = [overlay::BASE, "packaging/kubernetes/privileged"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubernetes: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints all faults, and fails if there are any.
fn run() -> Result<()> {
    let kustomize =
        std::env::args_os().nth(1).map(PathBuf::from).context("usage: acceptd-kubernetes KUSTOMIZE")?;
    let workspace = Workspace::from_working_directory()?;
    let rendered = |folder| Ok((folder, render(&kustomize, &workspace.path(folder))?));
    let applied = APPLIED.into_iter().map(rendered).collect::<Result<BTreeMap<_, _>>>()?;
    let mut wrong = 0;
    for (folder, objects) in &applied {
        wrong += validate(&workspace, folder, objects)?;
        if let Err(error) = check_images(objects) {
            println!("{folder}: {error:#}");
            wrong += 1;
        }
        println!("{folder}: {} objects", objects.len());
    }
    for (title, block) in overlay::blocks(&overlay::readme(&workspace)?)? {
        let own = Overlay::write(&workspace, &block).context(title)?;
        let objects = render(&kustomize, &own.folder()).context(title)?;
        wrong += validate(&workspace, title, &objects)?;
        if let Err(error) = own.check_changes(&applied[overlay::BASE], &objects) {
            println!("{title}: {error:#}");
            wrong += 1;
        }
        println!("{title}: {} objects", objects.len());
    }
    if wrong > 0 {
        bail!("{wrong} faults in what packaging/kubernetes renders");
    }
    Ok(())
}

/// The objects that kustomize renders for a folder.
fn render(kustomize: &Path, folder: &Path) -> Result<Vec<Value>> {
    let mut build = Command::new(kustomize);
    build.arg("build").arg(folder);
    let text = command::capture(build)?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
        .with_context(|| format!("{} renders something other than YAML", folder.display()))?;
    ensure!(!objects.is_empty(), "{} renders nothing", folder.display());
    Ok(objects)
}

/// Prints the faults of all objects, and returns how many there are.
fn validate(workspace: &Workspace, title: &str, objects: &[Value]) -> Result<usize> {
    let mut wrong = 0;
    for object in objects {
        let name = format!("{title}: {}", title_of(object));
        for fault in faults(&fs::read(schema(workspace, object)?).context(name.clone())?, object)? {
            println!("{name}: {fault}");
            wrong += 1;
        }
    }
    Ok(wrong)
}

/// The schema file of an object's kind: `daemonset-apps-v1.json`, or `namespace-v1.json` for the core group.
fn schema(workspace: &Workspace, object: &Value) -> Result<PathBuf> {
    let kind = text_of(&object["kind"]).to_lowercase();
    let version = text_of(&object["apiVersion"]);
    let name = match version.split_once('/') {
        Some((group, version)) => format!("{kind}-{}-{version}", group.split('.').next().unwrap_or_default()),
        None => format!("{kind}-{version}"),
    };
    let file = workspace.path("tests/kubernetes/schemas").join(format!("{name}.json"));
    ensure!(
        file.exists(),
        "there is no schema {name}: tests/kubernetes/schemas/SOURCE.md says how to get it"
    );
    Ok(file)
}

/// The faults of an object by a schema.
fn faults(schema: &[u8], object: &Value) -> Result<Vec<String>> {
    let schema: Value = serde_json::from_slice(schema).context("a schema is not JSON")?;
    let validator = jsonschema::draft202012::new(&schema).context("a schema is not valid")?;
    Ok(validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect())
}

/// Checks that each image has a tag, and that the agent's tag is this version.
fn check_images(objects: &[Value]) -> Result<()> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let containers =
        objects.iter().flat_map(|object| list(&object["spec"]["template"]["spec"]["containers"]));
    let mut agents = 0;
    for container in containers {
        let image = text_of(&container["image"]);
        let (name, tag) = image.rsplit_once(':').with_context(|| format!("the image {image} has no tag"))?;
        if name == "acceptd" {
            let version = env!("CARGO_PKG_VERSION");
            ensure!(tag == version, "the image {image} is not of the version {version}");
            agents += 1;
        }
    }
    ensure!(agents == 1, "{agents} containers have the agent's image, instead of one");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::{Value, json};

    use super::{check_images, faults};

    fn namespace() -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        fs::read(folder.join("namespace-v1.json")).expect("vendored")
    }

    #[test]
    fn a_misspelt_field_is_a_fault() {
        let good = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a" } });
        assert_eq!(faults(&namespace(), &good).expect("a schema"), Vec::<String>::new());
        for (from, to) in [("metadata", "metaData"), ("\"name\"", "\"nmae\""), ("\"a\"", "7")] {
            let text = good.to_string().replace(from, to);
            let bad: Value = serde_json::from_str(&text).expect("JSON");
            assert_ne!(faults(&namespace(), &bad).expect("a schema"), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn an_image_of_another_version_is_an_error() {
        let check = |image: &str| {
            check_images(&[
                json!({ "spec": { "template": { "spec": { "containers": [{ "image": image }] } } } }),
            ])
        };
        assert!(check(&format!("acceptd:{}", env!("CARGO_PKG_VERSION"))).is_ok());
        for image in ["acceptd:0.0.0", "acceptd", "other:1"] {
            assert!(check(image).is_err(), "{image}");
        }
    }
}
