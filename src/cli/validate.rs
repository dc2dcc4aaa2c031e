//! `waltree validate -f FILE`: the rules of the API server and of the operator, without either.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use super::{ERROR, OK, REFUSED};
use crate::api::{self, ReplicaTopology};
use crate::model::Desired;
use crate::model::check::Rejection;

/// Arguments of `waltree validate`.
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// A file with one or more YAML or JSON documents, `-` for the standard input; can be given more than once.
    /// Documents of other kinds are passed over.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What became of one document.
enum Judgement {
    Good,
    OtherKind,
    Refused(Vec<Rejection>),
    Unreadable(String),
}

/// Judges every document of every file; the worst of them decides the exit code.
pub(super) fn run(what: &Validate, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut worst = OK;
    for file in &what.files {
        let text = read(file).with_context(|| format!("read {}", file.display()))?;
        worst = worse(worst, documents(&text, &file.display().to_string(), out)?);
    }
    Ok(worst)
}

/// 1 (could not be judged) is worse than 3 (judged, and refused).
fn worse(one: u8, other: u8) -> u8 {
    if one == ERROR || other == ERROR { ERROR } else { one.max(other) }
}

fn documents(text: &str, file: &str, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut worst = OK;
    let mut topologies = 0;
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let (name, judgement) = judge(document);
        topologies += usize::from(!matches!(judgement, Judgement::OtherKind));
        worst = worse(worst, report(out, &format!("{file}[{index}]"), &name, &judgement)?);
        // The reader would give the same error for ever.
        if matches!(judgement, Judgement::Unreadable(_)) {
            return Ok(ERROR);
        }
    }
    if topologies == 0 {
        writeln!(out, "{file}: there is no ReplicaTopology in it")?;
        worst = ERROR;
    }
    Ok(worst)
}

/// The one topology that a file holds, for commands that plan with it. What it says that no field has is no small thing
/// there: a plan without it would be the plan of something else.
///
/// # Errors
/// It cannot be read, holds none or several, or has unknown fields or values of a wrong type.
pub(super) fn only_topology(file: &Path) -> anyhow::Result<ReplicaTopology> {
    let name = file.display();
    let text = read(file).with_context(|| format!("cannot read {name}"))?;
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = document_value(document).with_context(|| format!("{name} cannot be read"))?;
        if kind(&value) == ReplicaTopology::kind(&()) {
            found.push(value);
        }
    }
    let [value] = found.as_slice() else {
        bail!("{name} is to hold one ReplicaTopology and holds {}", found.len());
    };
    let unknown = value.get("spec").map(api::unknown_fields).unwrap_or_default();
    if let Some(rejection) = unknown.first() {
        bail!("{name}: {rejection}");
    }
    typed(value).map_err(|rejection| anyhow!("{name}: {rejection}"))
}

/// Through YAML's own values: they refuse a key that is there twice.
fn document_value(document: serde_yaml::Deserializer<'_>) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(serde_yaml::Value::deserialize(document)?)?)
}

fn kind(value: &Value) -> &str {
    value.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

fn report(out: &mut impl Write, place: &str, name: &str, judgement: &Judgement) -> std::io::Result<u8> {
    match judgement {
        Judgement::OtherKind => Ok(OK),
        Judgement::Good => writeln!(out, "{place}: {name} is valid").map(|()| OK),
        Judgement::Unreadable(why) => writeln!(out, "{place}: cannot be read: {why}").map(|()| ERROR),
        Judgement::Refused(rejections) => {
            for rejection in rejections {
                writeln!(out, "{place}: {name}: {rejection}")?;
            }
            Ok(REFUSED)
        }
    }
}

fn judge(document: serde_yaml::Deserializer<'_>) -> (String, Judgement) {
    let value = match document_value(document) {
        Ok(value) => value,
        Err(error) => return (String::new(), Judgement::Unreadable(error.to_string())),
    };
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("ReplicaTopology {}", text("/metadata/name"));
    if kind(&value) != ReplicaTopology::kind(&()) {
        return (name, Judgement::OtherKind);
    }
    let version = ReplicaTopology::api_version(&());
    if text("/apiVersion") != version {
        let message = format!("{:?} is not {version}: correct it", text("/apiVersion"));
        return (name, Judgement::Refused(vec![Rejection::new("apiVersion", message)]));
    }
    let mut rejections = value.get("spec").map(api::unknown_fields).unwrap_or_default();
    if text("/metadata/name").is_empty() {
        rejections.push(Rejection::new("metadata.name", "it has none: give it one"));
    }
    match typed(&value) {
        Err(rejection) => rejections.push(rejection),
        Ok(topology) => rejections.extend(Desired::try_from(&topology.spec).err().unwrap_or_default()),
    }
    let judgement = if rejections.is_empty() { Judgement::Good } else { Judgement::Refused(rejections) };
    (name, judgement)
}

/// Reads a document through YAML text again, because only that reader names the path of a wrong type.
fn typed(value: &Value) -> Result<ReplicaTopology, Rejection> {
    let refused = |error: serde_yaml::Error| {
        let text = error.to_string();
        // "spec.groups[0].relays: invalid type: ... at line 9 column 11": the line is that of our own text.
        let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
        match text.split_once(": ") {
            Some((path, why)) if !path.contains(' ') => Rejection::new(path, why),
            _ => Rejection::new("spec", text),
        }
    };
    let yaml = serde_yaml::to_string(value).map_err(refused)?;
    serde_yaml::from_str(&yaml).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code and output for a file with this text.
    fn validate(text: &str) -> (u8, String) {
        let mut out = Vec::new();
        let code = documents(text, "t.yaml", &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    fn manifest(groups: &str) -> String {
        format!(
            "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: orders}}\nspec:\n  groups:\n{groups}\n"
        )
    }

    const CORE: &str = "  - {name: core, hosts: [{name: core-1, address: 192.0.2.1}]}";

    #[test]
    fn a_good_manifest_among_others_is_valid() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: sql}\n";
        let (code, said) = validate(&format!("{secret}---\n{}", manifest(CORE)));
        assert_eq!((code, said.as_str()), (OK, "t.yaml[1]: ReplicaTopology orders is valid\n"));
    }

    #[test]
    fn each_refusal_names_its_document_and_the_guilty_group() {
        let bad = format!("{CORE}\n  - {{name: eu, upstreams: [cor], hosts: [{{name: eu-1, address: 192.0.2.2}}]}}");
        let (code, said) = validate(&format!("{}---\n{}", manifest(CORE), manifest(&bad)));
        assert_eq!(code, REFUSED);
        let expected =
            "t.yaml[1]: ReplicaTopology orders: spec.groups[1].upstreams[0]: eu names cor, and there is no such group";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_key_that_is_there_twice_and_a_topology_without_a_name_are_told() {
        let (code, said) = validate(&manifest(CORE).replace("{name: core,", "{region: eu, region: us, name: core,"));
        assert_eq!(code, ERROR);
        assert!(said.contains("duplicate entry with key \"region\""), "{said}");
        let (code, said) = validate(&manifest(CORE).replace("{name: orders}", "{}"));
        assert_eq!(code, REFUSED);
        assert!(said.contains("metadata.name: it has none"), "{said}");
    }

    #[test]
    fn who_plans_with_a_file_is_told_of_a_field_that_does_not_exist() {
        let file = std::env::temp_dir().join(format!("waltree-only-{}.yaml", std::process::id()));
        let told = |text: String| {
            std::fs::write(&file, text).unwrap();
            only_topology(&file).map_err(|error| format!("{error:#}"))
        };
        let typo = told(manifest(CORE).replace("{name: core,", "{name: core, relay: 2,")).unwrap_err();
        assert!(typo.contains("spec.groups[0].relay: there is no such field"), "{typo}");
        let two = told(format!("{0}---\n{0}", manifest(CORE))).unwrap_err();
        assert!(two.ends_with("is to hold one ReplicaTopology and holds 2"), "{two}");
        assert_eq!(told(manifest(CORE)).unwrap().metadata.name.as_deref(), Some("orders"));
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn an_unknown_field_and_a_wrong_type_are_named_by_path() {
        let (code, said) =
            validate(&manifest("  - {name: core, fanout: 3, hosts: [{name: core-1, address: 192.0.2.1}]}"));
        assert_eq!(code, REFUSED);
        assert!(
            said.contains("spec.groups[0].fanout: there is no such field: use one of credentialsSecretRef, fanOut"),
            "{said}"
        );
        let (code, said) =
            validate(&manifest("  - {name: core, fanOut: many, hosts: [{name: core-1, address: 192.0.2.1}]}"));
        assert_eq!(code, REFUSED);
        assert!(said.contains("spec.groups[0].fanOut: invalid type"), "{said}");
    }

    #[test]
    fn what_cannot_be_read_or_holds_no_topology_is_an_error() {
        assert_eq!(validate("a: [").0, ERROR);
        assert_eq!(
            validate("apiVersion: v1\nkind: Secret\n"),
            (ERROR, "t.yaml: there is no ReplicaTopology in it\n".to_owned())
        );
        let old = manifest(CORE).replace("v1alpha1", "v1");
        assert_eq!(validate(&old).0, REFUSED);
    }
}
