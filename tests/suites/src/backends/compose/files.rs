//! Compares docker-compose.yml with the override of the suite, with packaging/demo/privileged.yml, and with
//! the way in which the suite builds images.

use anyhow::{Context, Result, ensure};

use super::project::{OVERRIDE, Project, SHIPPED};
use crate::backends::images;

const PRIVILEGED: &str = "packaging/demo/privileged.yml";

/// The services that the override may remove.
const REMOVED: [&str; 2] = ["grafana", "kibana"];

/// The services to which the override may give the capabilities of older kernels.
const OLDER_CAPABILITIES: [&str; 2] = ["acceptd", "check"];

/// Checks that docker-compose.yml builds the images as the suite does, that privileged.yml makes services
/// privileged, and that the override only removes [`REMOVED`] and changes the capabilities of
/// [`OLDER_CAPABILITIES`].
pub(super) fn check(project: &Project<'_>) -> Result<()> {
    let mut shipped = project.merged_services(&[SHIPPED])?;
    for (target, _, service) in images::BUILT {
        let build = &shipped[service]["build"];
        ensure!(
            build["target"] == target
                && build["dockerfile"] == images::DOCKERFILE
                && build["args"]["BASE_IMAGE"] == project.environment.value("BASE_IMAGE")?,
            "{SHIPPED} does not build {service} as the suite does: {build}"
        );
    }
    let privileged = project.merged_services(&[SHIPPED, PRIVILEGED])?;
    for name in OLDER_CAPABILITIES {
        let service = &privileged[name];
        ensure!(
            service["privileged"] == true && service["cap_add"].is_null() && service["cap_drop"].is_null(),
            "{PRIVILEGED} does not make {name} privileged: {service}"
        );
    }
    let overridden = project.merged_services(&[SHIPPED, OVERRIDE])?;
    let all = shipped.as_object_mut().context("no services")?;
    for name in REMOVED {
        ensure!(all.remove(name).is_some(), "{name} is not a service of {SHIPPED}");
    }
    for name in OLDER_CAPABILITIES {
        all[name]["cap_add"] = overridden[name]["cap_add"].clone();
    }
    ensure!(
        shipped == overridden,
        "{OVERRIDE} changes more than the services and capabilities that it may change"
    );
    Ok(())
}
