//! The README's tables against the code: every word of the code is explained, and no word that is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use strum::{EnumMessage as _, EnumProperty as _, IntoEnumIterator as _};
use waltree::api::{ConditionType, Reason};
use waltree::model::{Diagnosis, NodeName};
use waltree::plan::{WaitReason, Why};
use waltree::web::{Metrics, Tree};

const README: &str = include_str!("../README.md");

/// The words in backquotes that begin the rows of the tables below a heading.
fn first_cells(heading: &str) -> BTreeSet<String> {
    let (_, after) = README.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
    let section = after.split("\n## ").next().unwrap_or_default();
    let cell = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    section.lines().filter_map(cell).collect()
}

#[test]
fn every_condition_and_reason_is_in_the_readme_and_no_other() {
    let words = ConditionType::iter().map(|kind| kind.to_string());
    let expected: BTreeSet<String> = words.chain(Reason::all().map(|reason| reason.to_string())).collect();
    assert_eq!(first_cells("Conditions"), expected);
}

#[test]
fn what_is_done_about_each_diagnosis_and_when_it_ends_is_in_the_readme_as_the_code_says_it() {
    for diagnosis in Diagnosis::iter() {
        let (seen, done) = (diagnosis.get_documentation().unwrap(), diagnosis.get_message().unwrap());
        let ends = diagnosis.get_str("ends").unwrap();
        let row = format!("| `{diagnosis}` | {seen} | {done} | {ends} |");
        assert!(README.lines().any(|line| line == row), "the README lacks this row:\n{row}");
    }
}

#[test]
fn why_a_step_is_done_and_what_it_waits_for_are_in_the_readme_as_the_code_says_it() {
    let why = Why::iter().map(|why| (why.to_string(), why.get_documentation().unwrap()));
    let waits = WaitReason::iter().map(|reason| (reason.to_string(), reason.get_documentation().unwrap()));
    let expected: BTreeMap<_, _> = why.chain(waits).collect();
    assert_eq!(first_cells("Steps"), expected.keys().cloned().collect());
    for (reason, what) in expected {
        let row = format!("| `{reason}` | {what} |");
        assert!(README.lines().any(|line| line == row), "the README lacks this row:\n{row}");
    }
}

#[test]
fn every_metric_is_in_the_readme_and_no_other() {
    // A figure with labels is shown from its first value on.
    let metrics = Metrics::default();
    let tree = Tree { namespace: "default".to_owned(), topology: "orders".to_owned() };
    let lag = BTreeMap::from([(NodeName::new("eu-1").unwrap(), Duration::ZERO)]);
    let retained = BTreeMap::from([(NodeName::new("eu-1").unwrap(), 0)]);
    metrics.show(&tree, &lag, &BTreeMap::from([(Diagnosis::DeadRelay, 1)]), &retained);
    metrics.stepped("SetRoute", true);
    metrics.accepted(&tree, true);
    let text = metrics.text().unwrap();
    let name = |line: &str| {
        let mut words = line.strip_prefix("# TYPE ")?.split(' ');
        let (name, kind) = (words.next()?, words.next()?);
        Some(if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
    };
    let expected: BTreeSet<String> = text.lines().filter_map(name).collect();
    assert!(!expected.is_empty(), "{text}");
    assert_eq!(first_cells("Metrics"), expected);
}

#[test]
fn every_field_of_the_spec_is_in_the_readme() {
    let crd = include_str!("../crds/waltree.dev_replicatopologies.yaml");
    let crd: serde_json::Value = serde_yaml::from_str(crd).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let (_, resource) = README.split_once("\n## The resource\n").expect("the heading is there");
    let resource = resource.split("\n## ").next().unwrap_or_default();
    let mut missing = Vec::new();
    walk(spec, &mut |name| {
        if !resource.contains(name) {
            missing.push(name.to_owned());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

fn walk(properties: &serde_json::Value, see: &mut impl FnMut(&str)) {
    for (name, schema) in properties.as_object().into_iter().flatten() {
        see(name);
        walk(&schema["properties"], see);
        walk(&schema["items"]["properties"], see);
    }
}

#[test]
fn the_way_to_a_first_topology_names_the_certificate_of_the_default_tls_mode_and_where_the_metrics_are() {
    assert!(README.contains("create secret generic orders-sql") && README.contains("--from-file=ca.crt=FILE"));
    let deployment = include_str!("../deploy/operator.yaml");
    let port = deployment.split("containerPort: ").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    assert!(deployment.contains(&format!("--listen=0.0.0.0:{port}")), "{port}");
    assert!(README.contains(&format!("at `/metrics` on port {port}")), "{port}");
}

#[test]
fn every_fuzz_target_is_declared_has_a_seed_and_is_in_the_readme_with_its_command() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let targets = std::fs::read_dir(fuzz.join("targets")).unwrap();
    let targets = targets.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    let targets: BTreeSet<String> = targets.collect();
    let declared =
        manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|bin| Some(bin.split_once('"')?.0.to_owned()));
    assert_eq!(declared.collect::<BTreeSet<_>>(), targets);
    let command = "cargo +nightly fuzz run --fuzz-dir tests/fuzz spec -- -seed_inputs=tests/fuzz/seeds/spec";
    assert!(README.contains(&format!("`{command}`")) && manifest.contains(&command.replace("spec", "TARGET")));
    for target in targets {
        assert!(fuzz.join("seeds").join(&target).is_file(), "{target} has no seed");
        assert!(target == "spec" || README.contains(&format!("`{target}`")), "the README does not name {target}");
    }
}

/// The demo, with an API server of its own.
fn demo() -> Command {
    let mut command = Command::new("timeout");
    command.arg("60").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo")).env_remove("WALTREE_KUBECONFIG");
    command
}

#[test]
fn a_demo_whose_set_up_fails_says_what_is_missing_and_ends() {
    let ran = demo().env("KUBEBUILDER_ASSETS", "/nonexistent").output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stderr).contains("/nonexistent has no etcd"), "{ran:?}");
    assert_eq!(ran.status.code(), Some(1), "it has ended, and was not ended");
}

#[test]
fn a_demo_that_finds_its_port_taken_says_which_and_touches_no_cluster() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = demo().env("WALTREE_KUBE_PORT", &port).output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stderr).contains(&format!("port {port} of 127.0.0.1 is taken")), "{ran:?}");
    assert!(!String::from_utf8_lossy(&ran.stdout).contains("applied"), "{ran:?}");
    assert_eq!(ran.status.code(), Some(1));
}

#[test]
fn what_installs_all_is_all_that_installs_each() {
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let parts = ["crds/waltree.dev_replicatopologies.yaml", "deploy/rbac.yaml", "deploy/operator.yaml"];
    let parts = parts.map(|file| std::fs::read_to_string(repository.join(file)).unwrap());
    let whole = parts.map(|part| part.trim_start_matches("---\n").to_owned()).join("---\n");
    let file = repository.join("deploy/install.yaml");
    if std::env::var_os("WALTREE_BLESS").is_some() {
        std::fs::write(&file, &whole).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap_or_default(), whole, "set WALTREE_BLESS=1");
}
