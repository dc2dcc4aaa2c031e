//! `waltree validate -f FILE`: the rules of the API server and of the operator, without either.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kube::Resource;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ERROR, OK, REFUSED, Refused};
use crate::api::{self, ReplicaTopology};
use crate::model::Desired;
use crate::model::check::Rejection;

/// Arguments of `waltree validate`.
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// A file with one or more YAML or JSON documents, `-` for the standard input; can be given more than once.
    /// A List is looked into; documents of other kinds are passed over.
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What became of one document.
enum Judgement {
    Good,
    OtherKind,
    Refused(Vec<Rejection>),
}

/// Judges every document of every file; the worst of them decides the exit code.
pub(super) fn run(what: &Validate, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut worst = OK;
    let mut named = Named::new();
    for file in &what.files {
        let text = read(file).with_context(|| format!("read {}", file.display()))?;
        worst = worse(worst, documents(&text, &file.display().to_string(), &mut named, out)?);
    }
    Ok(worst)
}

/// 1 (could not be judged) is worse than 3 (judged, and refused).
fn worse(one: u8, other: u8) -> u8 {
    if one == ERROR || other == ERROR { ERROR } else { one.max(other) }
}

/// Where the topology of a namespace and name is written.
type Named = BTreeMap<(String, String), String>;

fn documents(text: &str, file: &str, named: &mut Named, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut worst = OK;
    let mut topologies = 0;
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let place = format!("{file}[{index}]");
        let value = match document_value(document) {
            Ok(value) => value,
            // The reader would give the same error for ever.
            Err(error) => {
                writeln!(out, "{place}: cannot be read: {error}")?;
                return Ok(ERROR);
            }
        };
        for (place, value) in objects(&place, value) {
            let judgement = judge(&place, &value, named);
            topologies += usize::from(!matches!(judgement, Judgement::OtherKind));
            worst = worse(worst, report(out, &place, &subject(&value), &judgement)?);
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
        for (_, value) in objects("", value) {
            match is_topology(&value) {
                Ok(true) => found.push(value),
                Ok(false) => {}
                Err(rejection) => return Err(Refused(format!("{name}: {rejection}")).into()),
            }
        }
    }
    let [value] = found.as_slice() else {
        bail!("{name} is to hold one ReplicaTopology and holds {}", found.len());
    };
    match typed(value) {
        Ok(topology) => Ok(topology),
        Err(faults) => {
            let all = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Err(Refused(format!("{name}: {all}")).into())
        }
    }
}

/// Through YAML's own values: they refuse a key that is there twice.
fn document_value(document: serde_yaml::Deserializer<'_>) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(serde_yaml::Value::deserialize(document)?)?)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

/// The objects of a document, each with its place: those of a list, which kubectl takes apart as well, or the one that it is;
/// none of an empty document.
fn objects(place: &str, mut value: Value) -> Vec<(String, Value)> {
    let is_list = matches!(text(&value, "/kind"), "List" | "ReplicaTopologyList");
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => {
            let items = items.into_iter().enumerate();
            items.flat_map(|(index, item)| objects(&format!("{place}.items[{index}]"), item)).collect()
        }
        _ if value.is_null() => Vec::new(),
        _ => vec![(place.to_owned(), value)],
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What a document calls itself.
fn subject(value: &Value) -> String {
    let kind = Some(text(value, "/kind")).filter(|kind| !kind.is_empty()).unwrap_or("a document");
    match text(value, "/metadata/name") {
        "" => format!("{kind} without a name"),
        name => format!("{kind} {name}"),
    }
}

fn report(out: &mut impl Write, place: &str, name: &str, judgement: &Judgement) -> std::io::Result<u8> {
    match judgement {
        Judgement::OtherKind => Ok(OK),
        Judgement::Good => writeln!(out, "{place}: {name} is valid").map(|()| OK),
        Judgement::Refused(rejections) => {
            for rejection in rejections {
                writeln!(out, "{place}: {name}: {rejection}")?;
            }
            Ok(REFUSED)
        }
    }
}

fn judge(place: &str, value: &Value, named: &mut Named) -> Judgement {
    match is_topology(value) {
        Ok(true) => {}
        Ok(false) => return Judgement::OtherKind,
        Err(rejection) => return Judgement::Refused(vec![rejection]),
    }
    let mut rejections = match typed(value) {
        Ok(topology) => {
            let faults = api::metadata_faults(&topology.metadata).into_iter().chain(api::pod_name_faults(&topology));
            faults.chain(not_planned(&topology)).collect()
        }
        // What else could be said would follow from these.
        Err(faults) => faults,
    };
    let name = (text(value, "/metadata/namespace").to_owned(), text(value, "/metadata/name").to_owned());
    if !name.1.is_empty()
        && let Some(other) = named.insert(name, place.to_owned())
    {
        let message = format!("{other} has the same name in the same namespace: rename one, or take it out");
        rejections.push(Rejection::new("metadata.name", message));
    }
    if rejections.is_empty() { Judgement::Good } else { Judgement::Refused(rejections) }
}

/// Whether it is a topology, or of another kind. What is meant to be one and is called otherwise would pass silently.
fn is_topology(value: &Value) -> Result<bool, Rejection> {
    let (wanted, version) = (ReplicaTopology::kind(&()), ReplicaTopology::api_version(&()));
    let (kind, given) = (text(value, "/kind"), text(value, "/apiVersion"));
    let is_ours = given.split('/').next() == Some(ReplicaTopology::group(&()).as_ref());
    if kind.is_empty() {
        return Err(Rejection::new("kind", format!("it has none: write {wanted}, or what else it is")));
    }
    if kind != wanted && (is_ours || api::same_letters(kind, &wanted)) {
        return Err(Rejection::new("kind", format!("{kind:?} is no kind of {version}: write {wanted}")));
    }
    if kind == wanted && given != version {
        return Err(Rejection::new("apiVersion", format!("{given:?} is not {version}: correct it")));
    }
    Ok(kind == wanted)
}

/// Reads a document that has only fields that there are, and values of their types.
fn typed(value: &Value) -> Result<ReplicaTopology, Vec<Rejection>> {
    let faults = api::document_faults(value);
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut value = value.clone();
    if value["spec"].is_null() {
        value["spec"] = json!({});
    }
    serde_json::from_value(value).map_err(|error| vec![Rejection::new("spec", error.to_string())])
}

/// What the operator would not take.
fn not_planned(topology: &ReplicaTopology) -> Vec<Rejection> {
    let desired = match Desired::try_from(&topology.spec) {
        Ok(desired) => desired,
        Err(rejections) => return rejections,
    };
    let acknowledged = api::acknowledgement(topology, &desired, None).filter(|taken| taken.nodes.is_empty());
    let message = |taken: api::Acknowledgement| {
        format!("{:?} names no host of it: write HOST[,HOST...] or all, or take it out", taken.value)
    };
    let field = format!("metadata.annotations.{}", api::acknowledge::ACKNOWLEDGE);
    acknowledged.map(|taken| Rejection::new(field, message(taken))).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exit code and output for a file with this text.
    fn validate(text: &str) -> (u8, String) {
        let mut out = Vec::new();
        let code = documents(text, "t.yaml", &mut Named::new(), &mut out).unwrap();
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
        assert_eq!(said, "t.yaml[0]: ReplicaTopology without a name: metadata.name: it is missing: add it\n");
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
        let expected =
            "spec.groups[0].fanOut: \"many\" is a text, and a whole number is wanted: write one within 1 to 100";
        assert!(said.contains(expected), "{said}");
        let (_, said) = validate(&manifest(CORE).replace("spec:", "spce:"));
        assert!(said.contains("spce: there is no such field: use one of apiVersion, kind, metadata, spec"), "{said}");
        let without = manifest(CORE).split("spec:").next().unwrap_or_default().to_owned();
        assert_eq!(validate(&without).0, OK, "three pods");
    }

    #[test]
    fn a_field_that_does_not_exist_is_told_without_what_follows_from_it() {
        let hosts: Vec<String> = (1..=4).map(|n| format!("{{name: eu-{n}, address: 192.0.2.1{n}}}")).collect();
        let eu = |relays: &str| {
            let hosts = hosts.join(", ");
            let groups =
                format!("{CORE}\n  - {{name: eu, region: eu, upstreams: [core], {relays}: 2, hosts: [{hosts}]}}");
            validate(&manifest(&groups))
        };
        assert_eq!(eu("relays").0, OK);
        let (code, said) = eu("relay");
        assert_eq!(code, REFUSED);
        assert!(said.contains("spec.groups[1].relay: there is no such field") && said.lines().count() == 1, "{said}");
    }

    #[test]
    fn what_is_meant_to_be_a_topology_does_not_pass_as_something_else() {
        for (kind, told) in [
            ("kind: ReplicaTopo", "kind: \"ReplicaTopo\" is no kind of waltree.dev/v1alpha1: write ReplicaTopology"),
            (
                "kind: replicatopology",
                "kind: \"replicatopology\" is no kind of waltree.dev/v1alpha1: write ReplicaTopology",
            ),
            ("x: y", "kind: it has none: write ReplicaTopology, or what else it is"),
        ] {
            let wrong = manifest(CORE).replace("kind: ReplicaTopology", kind);
            let (code, said) = validate(&format!("{}---\n{wrong}", manifest(CORE)));
            assert_eq!(code, REFUSED);
            assert!(said.contains("t.yaml[1]: ") && said.contains(told), "{said}");
        }
        let (code, said) = validate("apiVersion: v2\nkind: Replica-Topology\n");
        assert_eq!(code, REFUSED, "{said}");
    }

    #[test]
    fn a_list_is_looked_into() {
        let list = |address: &str| {
            let item: Value = serde_yaml::from_str(&manifest(CORE).replace("192.0.2.1", address)).unwrap();
            let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret"});
            validate(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [secret, item]}).to_string())
        };
        assert_eq!(list("192.0.2.1"), (OK, "t.yaml[0].items[1]: ReplicaTopology orders is valid\n".to_owned()));
        let (code, said) = list("192.0.2.1:5433");
        assert_eq!(code, REFUSED);
        let told = "t.yaml[0].items[1]: ReplicaTopology orders: spec.groups[0].hosts[0].address: \"192.0.2.1:5433\" of core-1 \
                    has a port in it: write 192.0.2.1 here and 5433 in `port`\n";
        assert_eq!(said, told);
    }

    #[test]
    fn two_of_one_name_are_told_unless_their_namespaces_differ() {
        let (code, said) = validate(&format!("{0}---\n---\n{0}", manifest(CORE)));
        assert_eq!(code, REFUSED);
        assert!(
            said.contains("t.yaml[2]: ReplicaTopology orders: metadata.name: t.yaml[0] has the same name"),
            "{said}"
        );
        let elsewhere = manifest(CORE).replace("{name: orders}", "{name: orders, namespace: shop}");
        assert_eq!(validate(&format!("{}---\n{elsewhere}", manifest(CORE))).0, OK);
    }

    #[test]
    fn an_acknowledgement_of_nobody_is_told() {
        let acknowledging = |value: &str| {
            let metadata = format!("{{name: orders, annotations: {{waltree.dev/acknowledge: {value:?}}}}}");
            validate(&manifest(CORE).replace("{name: orders}", &metadata))
        };
        for good in ["all", "core-1 again", "core-1,gone-1"] {
            assert_eq!(acknowledging(good).0, OK, "{good}");
        }
        let (code, said) = acknowledging("core-9");
        assert_eq!(code, REFUSED);
        assert!(
            said.contains("metadata.annotations.waltree.dev/acknowledge: \"core-9\" names no host of it"),
            "{said}"
        );
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
