//! The kustomization that packaging/kubernetes/README.md shows to users: it must change the objects that it
//! names, and no others.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use xtask_support::Workspace;

use crate::objects::{text_of, title_of};

/// The base of the overlay.
pub(crate) const BASE: &str = "packaging/kubernetes";
const README: &str = "packaging/kubernetes/README.md";
const OWN: &str = "own";
/// The first lines of the block.
const BEGIN: &str = "```yaml\n# kustomization.yaml\n";
const END: &str = "\n```";

/// The changes that a block declares.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    images: Vec<Image>,
    config_map_generator: Vec<Generator>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    name: String,
    new_name: Option<String>,
    new_tag: Option<String>,
}

#[derive(Deserialize)]
struct Generator {
    name: String,
    files: Vec<String>,
}

/// A block written to a folder, with the files that it names.
pub(crate) struct Overlay {
    claims: Claims,
    /// The contents of those files, by name.
    files: BTreeMap<String, String>,
    /// The parent folder of the user's folder and of a link to the checkout.
    around: TempDir,
}

/// The text of the README.
pub(crate) fn readme(workspace: &Workspace) -> Result<String> {
    fs::read_to_string(workspace.path(README)).with_context(|| format!("reading {README}"))
}

/// The block as it is, and the block with its commented lines activated, each with a title.
pub(crate) fn blocks(readme: &str) -> Result<[(&'static str, String); 2]> {
    let (_, rest) = readme.split_once(BEGIN).with_context(|| {
        format!("{README} has no block of YAML that begins with the comment `# kustomization.yaml`")
    })?;
    let (block, _) = rest
        .split_once(END)
        .with_context(|| format!("{README}: the block of kustomization.yaml has no end"))?;
    let whole = block.replace("\n  #", "\n  ");
    ensure!(whole != block, "{README}: the block of kustomization.yaml has no commented line");
    Ok([
        ("the kustomization of packaging/kubernetes/README.md", block.to_owned()),
        ("the kustomization of packaging/kubernetes/README.md, with its comments", whole),
    ])
}

impl Overlay {
    /// Writes a block to a folder beside `acceptd`, which the README uses for the checkout.
    pub(crate) fn write(workspace: &Workspace, block: &str) -> Result<Self> {
        let claims: Claims = serde_saphyr::from_str(block).context("it declares no images and files")?;
        let around = tempfile::tempdir().context("no temporary folder")?;
        symlink(workspace.root(), around.path().join("acceptd")).context("linking the checkout")?;
        let own = around.path().join(OWN);
        fs::create_dir(&own).context("creating a folder")?;
        let mut files = BTreeMap::new();
        for name in claims.config_map_generator.iter().flat_map(|generator| &generator.files) {
            let replaced = workspace.path(BASE).join("base").join(name);
            let text = fs::read_to_string(&replaced)
                .with_context(|| format!("reading {}, which it replaces", replaced.display()))?;
            files.insert(name.clone(), format!("{text}# Changed by the overlay.\n"));
        }
        for (name, text) in &files {
            fs::write(own.join(name), text).with_context(|| format!("writing {name}"))?;
        }
        fs::write(own.join("kustomization.yaml"), block).context("writing kustomization.yaml")?;
        Ok(Self { claims, files, around })
    }

    /// The folder to render.
    pub(crate) fn folder(&self) -> PathBuf {
        self.around.path().join(OWN)
    }

    /// Checks that the rendered objects are those of the base with the images and files of the block.
    pub(crate) fn check_changes(&self, base: &[Value], rendered: &[Value]) -> Result<()> {
        let mut wanted = self.applied(base, rendered)?;
        let mut rendered = rendered.to_vec();
        ensure!(wanted.len() == rendered.len(), "{} objects, not {}", rendered.len(), wanted.len());
        // kustomize sorts by name, and the names of ConfigMaps end in a hash, so the order may differ.
        for objects in [&mut wanted, &mut rendered] {
            objects.sort_by_key(title_of);
        }
        for (wanted, found) in wanted.iter().zip(&rendered) {
            if let Some(difference) = difference("", wanted, found) {
                bail!("{}: {difference}", title_of(wanted));
            }
        }
        Ok(())
    }

    /// The base with the changes of the block. Only the names of config maps are taken from the rendered
    /// objects, because they end in a hash.
    fn applied(&self, base: &[Value], rendered: &[Value]) -> Result<Vec<Value>> {
        let mut objects = base.to_vec();
        for image in &self.claims.images {
            image.apply(&mut objects)?;
        }
        let mut renamed = Vec::new();
        for Generator { name, files } in &self.claims.config_map_generator {
            let before = objects.iter_mut().find(|object| is_config_map(object, name));
            let before = before.with_context(|| format!("the base has no ConfigMap {name}"))?;
            for file in files {
                let data = before["data"].get_mut(file);
                let data = data.with_context(|| format!("the base's ConfigMap {name} has no {file}"))?;
                *data = Value::from(self.files[file].as_str());
            }
            let after = rendered.iter().find(|object| is_config_map(object, name));
            let after = after.with_context(|| format!("no ConfigMap {name} is rendered"))?;
            let [before, after] = [&*before, after].map(|map| text_of(&map["metadata"]["name"]).to_owned());
            ensure!(before != after, "the ConfigMap is still called {after}, so no pod would be replaced");
            renamed.push((before, after));
        }
        // Pods refer to config maps by name.
        let mut text = Value::from(objects).to_string();
        for (before, after) in renamed {
            text = text.replace(&before, &after);
        }
        serde_json::from_str(&text).context("a ConfigMap's name is not text")
    }
}

impl Image {
    /// Replaces the image in all containers that have it.
    fn apply(&self, objects: &mut [Value]) -> Result<()> {
        let mut changed = 0;
        let lists =
            objects.iter_mut().filter_map(|object| object.pointer_mut("/spec/template/spec/containers"));
        for container in lists.filter_map(Value::as_array_mut).flatten() {
            let Some((name, tag)) = text_of(&container["image"]).rsplit_once(':') else { continue };
            if name == self.name {
                let name = self.new_name.as_deref().unwrap_or(name);
                let tag = self.new_tag.as_deref().unwrap_or(tag);
                container["image"] = Value::from(format!("{name}:{tag}"));
                changed += 1;
            }
        }
        ensure!(changed > 0, "no container of the base has the image {}", self.name);
        Ok(())
    }
}

/// Whether an object is the generated config map of this name, which ends in a hash.
fn is_config_map(object: &Value, name: &str) -> bool {
    let full_name = text_of(&object["metadata"]["name"]);
    object["kind"] == "ConfigMap" && full_name.rsplit_once('-').is_some_and(|(stem, _)| stem == name)
}

/// The first difference of two values.
fn difference(at: &str, wanted: &Value, found: &Value) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) if wanted.keys().eq(found.keys()) => {
            wanted.iter().find_map(|(key, wanted)| difference(&format!("{at}/{key}"), wanted, &found[key]))
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let mut pairs = wanted.iter().zip(found).enumerate();
            pairs.find_map(|(index, (wanted, found))| difference(&format!("{at}/{index}"), wanted, found))
        }
        _ => (wanted != found).then(|| format!("{at} is {found}, not {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Overlay, blocks};

    const README: &str = include_str!("../../../packaging/kubernetes/README.md");
    const BLOCK: &str = "images: [{name: a, newName: example.com/a}]\n\
        configMapGenerator: [{name: settings, behavior: merge, files: [a.toml]}]\n";

    fn objects(image: &str, map: &str, text: &str) -> [Value; 2] {
        let pod =
            json!({ "containers": [{ "image": image }], "volumes": [{ "configMap": { "name": map } }] });
        [
            json!({ "kind": "ConfigMap", "metadata": { "name": map }, "data": { "a.toml": text } }),
            json!({ "kind": "DaemonSet", "spec": { "template": { "spec": pod } } }),
        ]
    }

    fn overlay() -> Overlay {
        Overlay {
            claims: serde_saphyr::from_str(BLOCK).expect("claims"),
            files: BTreeMap::from([("a.toml".to_owned(), "new".to_owned())]),
            around: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    #[test]
    fn a_missing_block_is_an_error_that_names_the_readme() {
        let [(_, block), (_, whole)] = blocks(README).expect("a block");
        assert!(block.contains("\n  #- name: ") && whole.contains("\n  - name: "), "{whole}");
        for (from, to) in [("# kustomization.yaml\n", ""), ("```", ""), ("\n  #", "\n  ")] {
            let error = blocks(&README.replace(from, to)).expect_err("no such block");
            assert!(error.to_string().contains("packaging/kubernetes/README.md"), "{error}");
        }
    }

    #[test]
    fn a_rendering_that_differs_from_its_block_is_an_error() {
        let (overlay, base) = (overlay(), objects("a:1", "settings-1", "old"));
        let good = objects("example.com/a:1", "settings-2", "new");
        overlay.check_changes(&base, &good).expect("as it says");
        let [map, pod] = good.clone();
        overlay.check_changes(&base, &[pod, map]).expect("in another order");
        let bad = [
            objects("a:1", "settings-2", "new"),
            objects("example.com/a:2", "settings-2", "new"),
            objects("example.com/a:1", "settings-2", "old"),
            objects("example.com/a:1", "settings-1", "new"),
            objects("example.com/a:1", "others-2", "new"),
        ];
        for rendered in bad {
            assert!(overlay.check_changes(&base, &rendered).is_err(), "{rendered:?}");
        }
        // A pod that still has the old configuration.
        let [map, _] = good.clone();
        let [_, pod] = objects("example.com/a:1", "settings-1", "new");
        let error = overlay.check_changes(&base, &[map, pod]).expect_err("the old name");
        assert!(error.to_string().contains("/spec/template/spec/volumes/0/configMap/name"), "{error}");
        assert!(overlay.check_changes(&good, &good).is_err(), "the base has no image a");
    }
}
