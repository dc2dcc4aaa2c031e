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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_in_crds_is_the_one_this_code_prints() {
        let mut printed = Vec::new();
        print(&mut printed).unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/waltree.dev_replicatopologies.yaml");
        let kept = std::fs::read_to_string(file).unwrap();
        assert_eq!(String::from_utf8(printed).unwrap(), kept, "run: waltree crd > {file}");
    }
}
