//! `cargo xtask kubernetes`: builds kustomize, and starts the check of packaging/kubernetes
//! (tests/kubernetes).

use anyhow::Result;
use xtask_support::{Workspace, command};

use crate::go::{self, GoProgram};

const KUSTOMIZE: GoProgram = GoProgram {
    title: "kustomize",
    name: "kustomize",
    folder: "tests/kustomize",
    package: "sigs.k8s.io/kustomize/kustomize/v5",
    modfile: None,
    tags: "",
    takes: "a minute or two",
};

/// Builds kustomize at the lowest priority, while other steps run.
pub(crate) fn build_ahead(workspace: &Workspace) -> Result<()> {
    go::build_ahead(workspace, &KUSTOMIZE)
}

/// Runs the check.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let kustomize = go::build(workspace, &KUSTOMIZE)?;
    let arguments = ["run", "--quiet", "--locked", "--package", "acceptd-kubernetes", "--"];
    let mut check = command::cargo(workspace, &arguments);
    check.arg(kustomize);
    command::run(check)
}
