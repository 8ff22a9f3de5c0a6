//! docker-compose.yml, what is put on top of it, and what Compose makes of both.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{ELASTIC, Up, store::VICTORIALOGS};
use crate::{backends::images, command::capture};

pub(super) const SHIPPED: &str = "docker-compose.yml";
const PRIVILEGED: &str = "packaging/demo/privileged.yml";
pub(super) const OVERRIDE: &str = "tests/compose/override.yml";
/// What it may leave out.
const LEFT_OUT: [&str; 2] = ["grafana", "kibana"];
/// Whom it may give other capabilities.
const OLDER_CAPABILITIES: [&str; 2] = ["acceptd", "check"];

impl Up<'_> {
    /// The override takes the list away and gives the older capabilities, and changes nothing else; what users build is what runs here.
    pub(super) fn hold_files(&self) -> Result<()> {
        let mut shipped = self.configured(&[SHIPPED])?;
        for (target, _, service) in images::BUILT {
            let build = &shipped[service]["build"];
            ensure!(
                build["target"] == target
                    && build["dockerfile"] == images::DOCKERFILE
                    && build["args"]["BASE_IMAGE"] == self.environment.value("BASE_IMAGE")?,
                "{SHIPPED} builds {service} in another way than the suite does: {build}"
            );
        }
        let privileged = self.configured(&[SHIPPED, PRIVILEGED])?;
        for name in OLDER_CAPABILITIES {
            let service = &privileged[name];
            ensure!(
                service["privileged"] == true
                    && service["cap_add"].is_null()
                    && service["cap_drop"].is_null(),
                "{PRIVILEGED} leaves {name} less than privileged: {service}"
            );
        }
        let here = self.configured(&[SHIPPED, OVERRIDE])?;
        let all = shipped.as_object_mut().context("no services")?;
        for name in LEFT_OUT {
            ensure!(all.remove(name).is_some(), "{name} is no service of {SHIPPED}");
        }
        for name in OLDER_CAPABILITIES {
            all[name]["cap_add"] = here[name]["cap_add"].clone();
        }
        ensure!(shipped == here, "{OVERRIDE} changes more than it may");
        Ok(())
    }

    /// The services of these files, in any profile but that of those left out.
    pub(super) fn configured(&self, files: &[&str]) -> Result<Value> {
        let mut compose = Command::new(&self.compose);
        compose.args(files.iter().flat_map(|file| ["--file", file]));
        compose.args([ELASTIC, VICTORIALOGS.name].iter().flat_map(|profile| ["--profile", profile]));
        compose.args(["config", "--format", "json"]);
        compose.current_dir(self.workspace.root()).envs(self.environment.all());
        let mut all: Value = serde_json::from_str(&capture(compose)?).context("docker compose config")?;
        Ok(all["services"].take())
    }
}
