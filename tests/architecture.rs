//! The house rules, read from the source itself: who may use whom, how long a file and a function may be, which words
//! are not ours to say. Every rule is also shown to refuse a snippet that breaks it: a check that cannot fail is none.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the source has failed")]

#[path = "architecture/said.rs"]
mod said;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use proc_macro2::TokenStream;
use said::Said;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// One folder of `src`: a row of the table in the design.
struct Folder {
    name: &'static str,
    /// Our own folders (or modules in them) that it may use beside itself.
    may_use: &'static [&'static str],
    /// Crates it may use; empty for any.
    crates: &'static [&'static str],
    /// Paths and names that must not appear in it.
    never: &'static [&'static str],
    /// Whether text of SQL may stand in it.
    sql: Sql,
    /// Methods of a Kubernetes client that write, which must not be called in it.
    reads_only: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Sql {
    None,
    Reads,
    Any,
}

const PURE_CRATES: &[&str] = &["indexmap", "petgraph", "proptest", "rustc_hash", "serde", "strum", "thiserror"];
const IMPURE: &[&str] = &[
    "HashMap",
    "HashSet",
    "Instant",
    "RandomState",
    "SystemTime",
    "hash_map",
    "hash_set",
    "jiff",
    "kube",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
    "tokio_postgres",
    "tracing",
];
/// What every write of a Kubernetes client takes.
const CLIENT_WRITE_PARAMETERS: &[&str] = &["DeleteParams", "Patch", "PatchParams", "PostParams"];
const PLAIN: Folder = Folder { name: "", may_use: &[], crates: &[], never: &[], sql: Sql::None, reads_only: false };

/// The table. A folder of `src` that is not in it is refused, and so is a row without a folder.
const FOLDERS: &[Folder] = &[
    Folder { name: "model", crates: PURE_CRATES, never: IMPURE, ..PLAIN },
    Folder { name: "plan", may_use: &["model"], crates: PURE_CRATES, never: IMPURE, ..PLAIN },
    Folder { name: "api", may_use: &["model"], never: &["petgraph", "tokio", "tokio_postgres"], ..PLAIN },
    Folder {
        name: "observe",
        may_use: &["api", "model"],
        never: CLIENT_WRITE_PARAMETERS,
        sql: Sql::Reads,
        reads_only: true,
        ..PLAIN
    },
    Folder {
        name: "act",
        may_use: &["api", "model", "render", "observe::NoReplication", "observe::Writer", "plan::Step", "plan::step"],
        sql: Sql::Any,
        ..PLAIN
    },
    Folder { name: "web", may_use: &["api", "model"], never: &["kube", "tokio_postgres"], reads_only: true, ..PLAIN },
    Folder {
        name: "simulate",
        may_use: &["api", "model", "operator::Cluster", "operator::reconcile", "operator::remembered", "plan"],
        never: &["HashMap", "HashSet", "Instant", "SystemTime", "kube", "std::thread", "tokio", "tokio_postgres"],
        ..PLAIN
    },
    Folder { name: "render", may_use: &["api", "model"], never: &["kube::Client", "tokio", "tokio_postgres"], ..PLAIN },
    Folder { name: "agent", may_use: &["guard::words", "model", "render"], never: &["kube"], sql: Sql::Any, ..PLAIN },
    Folder { name: "guard", crates: &["nix", "thiserror"], ..PLAIN },
    Folder { name: "operator", may_use: &["act", "api", "model", "observe", "plan", "render", "web"], ..PLAIN },
    Folder {
        name: "cli",
        may_use: &["agent", "api", "guard", "model", "observe", "operator", "plan", "simulate", "web"],
        never: &["tokio_postgres"],
        ..PLAIN
    },
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "util", "utils"];
const UNFINISHED: &[&str] = &["todo", "unimplemented"];
const SQL_BEGINS: &[&str] = &["SELECT ", "WITH ", "SET ", "LOCK ", "BEGIN", "COMMIT"];
const SQL_WRITES: &[&str] = &["ALTER ", "CREATE ", "DELETE ", "DROP ", "INSERT ", "TRUNCATE ", "UPDATE ", "VACUUM "];
/// What people are told to run, so that a right that is missing is there.
const SQL_FOR_PEOPLE: &[&str] = &["ALTER ROLE "];
const SQL_WRITERS: &[&str] =
    &["pg_create_", "pg_drop_", "pg_promote", "pg_reload_conf()", "pg_replication_slot_advance"];
const CLIENT_WRITES: &[&str] = &["create", "delete", "delete_collection", "patch", "patch_status", "replace_status"];
const TOP_LEVEL: &[&str] = &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "crds", "deploy", "src", "tests"];

/// `src/plan/tree.rs` is `plan::tree`; `src/plan/mod.rs` is `plan`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    inside.split('/').filter(|part| !["mod", "lib", "main", "kubectl"].contains(part)).map(str::to_owned).collect()
}

#[derive(Default)]
struct Functions(Vec<(String, usize, usize)>);

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
    }
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        self.0.push((signature.ident.to_string(), first, block.span().end().line + 1 - first));
    }
}

/// What one file has that it must not have, and its longest function.
struct Judged {
    breaches: Vec<String>,
    longest: (usize, String),
    paths: usize,
}

fn judge(path: &str, source: &str, dependencies: &[String]) -> Judged {
    let mut said = Said::default();
    said.listen(TokenStream::from_str(source).unwrap(), &module_of(path), &[]);
    let mut functions = Functions::default();
    functions.visit_file(&syn::parse_file(source).unwrap());

    let mut breaches = Vec::new();
    let mut breach = |line: usize, what: String| breaches.push(format!("{path}:{line}: {what}"));
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        breach(lines, format!("{lines} lines; a file is one thought of at most {FILE_LINES_MAX}"));
    }
    for (name, line, length) in functions.0.iter().filter(|(_, _, length)| *length > FUNCTION_LINES_MAX) {
        breach(*line, format!("fn {name} has {length} lines; at most {FUNCTION_LINES_MAX}"));
    }
    for part in path.split(['/', '.']).filter(|part| EMPTY_NAMES.contains(part)) {
        breach(1, format!("the name {part} says nothing"));
    }
    for (line, name) in said.modules.iter().filter(|(_, name)| EMPTY_NAMES.contains(&name.as_str())) {
        breach(*line, format!("the name {name} says nothing"));
    }
    for (line, name) in said.macros.iter().filter(|(_, name)| UNFINISHED.contains(&name.as_str())) {
        breach(*line, format!("{name}! is unfinished work"));
    }
    for (line, _) in said.words.iter().filter(|(_, word)| word == "unsafe") {
        breach(*line, "unsafe code".to_owned());
    }
    for (line, _) in said.attributes.iter().filter(|(_, name)| name == "ignore") {
        breach(*line, "an ignored test is no test".to_owned());
    }
    if let Some(folder) = folder_of(path) {
        for (line, what) in in_folder(folder, &said, dependencies) {
            breach(line, format!("{} {what}", folder.name));
        }
    }
    let longest = functions.0.iter().map(|(name, _, length)| (*length, format!("{path} fn {name}"))).max();
    Judged { breaches, longest: longest.unwrap_or_default(), paths: said.paths.len() }
}

fn folder_of(path: &str) -> Option<&'static Folder> {
    let (folder, _) = path.strip_prefix("src/")?.split_once('/')?;
    FOLDERS.iter().find(|row| row.name == folder)
}

fn in_folder(folder: &Folder, said: &Said, dependencies: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, path) in &said.paths {
        let text = path.join("::");
        if path[0] == "crate" {
            let within =
                |allowed: &str| text["crate::".len()..].split("::").collect::<Vec<_>>().starts_with(&split(allowed));
            if path.len() > 1 && !within(folder.name) && !folder.may_use.iter().any(|allowed| within(allowed)) {
                found.push((*line, format!("may not use {text}")));
            }
        } else if !folder.crates.is_empty()
            && dependencies.contains(&path[0])
            && !folder.crates.contains(&path[0].as_str())
        {
            found.push((*line, format!("may not use the crate {text}")));
        }
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        for never in folder.never.iter().filter(|never| words.windows(split(never).len()).any(|w| w == split(never))) {
            found.push((*line, format!("never names {never}: {text}")));
        }
    }
    for (line, text) in &said.strings {
        let text = text.trim_start();
        let begins = |with: &[&str]| with.iter().any(|word| text.starts_with(word));
        let writes = begins(SQL_WRITES)
            || (text.starts_with("SELECT ")
                && SQL_WRITERS.iter().any(|f| text["SELECT ".len()..].trim_start().starts_with(f)));
        match folder.sql {
            Sql::None if writes || begins(SQL_BEGINS) => found.push((*line, "has SQL text".to_owned())),
            Sql::Reads if writes && !begins(SQL_FOR_PEOPLE) => found.push((*line, "has SQL that writes".to_owned())),
            _ => {}
        }
    }
    for (line, call) in
        said.calls.iter().filter(|(_, call)| folder.reads_only && CLIENT_WRITES.contains(&call.as_str()))
    {
        found.push((*line, format!("only reads, but calls {call}")));
    }
    found
}

fn split(path: &str) -> Vec<&str> {
    path.split("::").collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The crates that `Cargo.toml` names, as code writes them.
fn dependencies() -> Vec<String> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut names = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && let Some((name, _)) = line.split_once('=')
        {
            names.push(name.trim().replace('-', "_"));
        }
    }
    assert!(names.len() > 10, "Cargo.toml was not understood: {names:?}");
    names
}

/// Every Rust file below a folder, as a path from the root. What cargo makes is nobody's: `tests/fuzz` has a `target` of
/// its own where the targets were built.
fn rust_files(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() && path != root().join("tests/fuzz/target") {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
    files
}

#[test]
fn every_file_keeps_the_rules_of_the_house() {
    let dependencies = dependencies();
    let (mut breaches, mut largest, mut longest, mut paths) = (Vec::new(), Default::default(), Default::default(), 0);
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        let source = fs::read_to_string(root().join(&file)).unwrap();
        let judged = judge(&file, &source, &dependencies);
        largest = std::cmp::max(largest, (source.lines().count(), file));
        longest = std::cmp::max(longest, judged.longest);
        paths += judged.paths;
        breaches.extend(judged.breaches);
    }
    // Past the capture of the test harness: these are figures that people quote.
    writeln!(
        std::io::stderr(),
        "largest file: {} ({} lines); largest function: {} ({} lines); {paths} paths read",
        largest.1,
        largest.0,
        longest.1,
        longest.0
    )
    .unwrap();
    assert!(paths > 100, "only {paths} paths were read, so the reader is broken");
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn the_table_and_the_folders_are_the_same() {
    let folders = fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen: Vec<String> = folders.filter(|path| path.is_dir()).map(|path| file_name(&path)).collect();
    let mut rows: Vec<String> = FOLDERS.iter().map(|row| row.name.to_owned()).collect();
    seen.sort();
    rows.sort();
    assert_eq!(seen, rows);
}

#[test]
fn the_top_level_shows_nothing_but_what_a_visitor_looks_for() {
    let entries = fs::read_dir(root()).unwrap().map(|entry| file_name(&entry.unwrap().path()));
    let extra: Vec<String> = entries
        .filter(|name| !name.starts_with('.') && name != "target" && !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    assert!(extra.is_empty(), "not to be at the top level: {extra:?}");
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn each_rule_refuses_what_breaks_it() {
    let long_function = format!("fn long() {{\n{}}}\n", "    ();\n".repeat(FUNCTION_LINES_MAX));
    let long_file = "//\n".repeat(FILE_LINES_MAX + 1);
    let cases = [
        ("src/model/x.rs", "use crate::plan::Plan;", "model may not use crate::plan::Plan"),
        ("src/model/x.rs", "use super::super::act;", "model may not use crate::act"),
        ("src/model/x.rs", "mod a { mod b { use super::super::super::super::web; } }", "may not use crate::web"),
        ("src/plan/x.rs", "fn f() { crate::act::go() }", "plan may not use crate::act::go"),
        ("src/plan/x.rs", "fn f() { format!(\"{}\", crate::observe::go()); }", "may not use crate::observe::go"),
        ("src/api/x.rs", "use crate::{model::Lsn, operator};", "api may not use crate::operator"),
        ("src/act/x.rs", "use crate::plan::plan;", "act may not use crate::plan::plan"),
        ("src/web/x.rs", "fn f(c: kube::Client) {}", "web never names kube"),
        ("src/cli/x.rs", "use tokio_postgres::Client;", "cli never names tokio_postgres"),
        ("src/model/x.rs", "use serde_json::Value;", "may not use the crate serde"),
        ("src/model/x.rs", "use kube;", "model never names kube"),
        ("src/plan/x.rs", "use std::collections::{BTreeMap, HashMap};", "plan never names HashMap"),
        ("src/plan/x.rs", "use std::time::*; fn f() { Instant::now(); }", "plan never names Instant"),
        ("src/model/x.rs", "fn f() { std::time::SystemTime::now(); }", "model never names SystemTime"),
        ("src/model/x.rs", "fn f(s: HashSet<u8>) {}", "model never names HashSet"),
        ("src/plan/x.rs", "fn f() { tracing::info!(\"x\"); }", "plan never names tracing"),
        ("src/model/x.rs", "fn f() { std::fs::read(\"x\"); }", "model never names std::fs"),
        ("src/operator/x.rs", "const Q: &str = \"SELECT 1\";", "operator has SQL text"),
        ("src/plan/x.rs", "fn f() { g(r\"  ALTER SYSTEM SET x = y\") }", "plan has SQL text"),
        ("src/observe/x.rs", "const Q: &str = \"ALTER SYSTEM SET x = 1\";", "observe has SQL that writes"),
        ("src/observe/x.rs", "const Q: &str = \"SELECT pg_reload_conf()\";", "observe has SQL that writes"),
        ("src/observe/x.rs", "fn f() { api.patch(x) }", "observe only reads, but calls patch"),
        ("src/observe/x.rs", "use kube::api::PostParams;", "observe never names PostParams"),
        ("src/act/x.rs", "fn f() { unsafe { g() } }", "unsafe code"),
        ("src/act/x.rs", "fn f() { todo!() }", "todo! is unfinished work"),
        ("tests/x.rs", "fn f() { std::unimplemented!(\"x\") }", "unimplemented! is unfinished work"),
        ("tests/x.rs", "#[test] #[ignore = \"slow\"] fn f() {}", "an ignored test is no test"),
        ("src/act/utils.rs", "", "the name utils says nothing"),
        ("tests/common/mod.rs", "", "the name common says nothing"),
        ("src/act/x.rs", "mod helpers;", "the name helpers says nothing"),
        ("src/act/x.rs", long_function.as_str(), "fn long has 72 lines"),
        ("src/act/x.rs", long_file.as_str(), "501 lines"),
    ];
    for (path, source, expected) in cases {
        let breaches = judge(path, source, &dependencies()).breaches;
        assert!(breaches.iter().any(|b| b.contains(expected)), "{path} {source:?}: {expected:?} not in {breaches:?}");
    }
}

#[test]
fn what_keeps_the_rules_is_let_through() {
    let cases = [
        ("src/plan/x.rs", "use crate::model::{Lsn, NodeName}; use super::step::Step; use std::collections::BTreeMap;"),
        ("src/plan/x.rs", "/// Like [`crate::act::go`], SELECT 1.\nfn f() { #[cfg(test)] mod t { use super::*; } }"),
        ("src/model/x.rs", "use std::time::Duration; fn f(kube: u8) { kube.max(1); strum::x(); }"),
        ("src/act/x.rs", "use crate::plan::step::{Step, Planned}; const Q: &str = \"SELECT pg_reload_conf()\";"),
        ("src/observe/x.rs", "const Q: &str = \"SELECT 1\"; const G: &str = \"ALTER ROLE waltree REPLICATION\";"),
        ("src/operator/x.rs", "fn f() { api.patch(x); crate::web::serve(); } const T: &str = \"Selected\";"),
    ];
    for (path, source) in cases {
        assert_eq!(judge(path, source, &dependencies()).breaches, Vec::<String>::new(), "{path} {source:?}");
    }
}
