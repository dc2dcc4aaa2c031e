//! `waltree crd`.

use std::io::Write;

use anyhow::Context;

use super::OK;
use crate::api;

/// Writes the definition as YAML. `crds/` is this output.
pub(super) fn print(out: &mut impl Write) -> anyhow::Result<u8> {
    let yaml = serde_yaml::to_string(&api::crd()).context("write the definition as YAML")?;
    out.write_all(yaml.as_bytes()).context("write to the standard output")?;
    Ok(OK)
}
