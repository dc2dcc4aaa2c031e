//! `kubectl waltree`: the verbs for people.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::look::{Look, look, topology};
use super::{DEGRADED, OK, adopt, draw};
use crate::api::ReplicaTopology;
use crate::model::Diagnosis;

/// Shows PostgreSQL replica trees and what is done about them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-waltree", bin_name = "kubectl waltree", version, arg_required_else_help = true)]
pub struct Arguments {
    /// The kubeconfig's context to use.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace of the topology; the context's own by default.
    #[arg(long, short, global = true)]
    namespace: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the tree as it is seen now, asked of the servers: lag of each hop and in all, fallbacks, what is wrong.
    /// Exit code 0: as declared, 2: something is wrong.
    Tree(Named),
    /// Show what would be done now and why, and what is waited for; with -f, if that manifest were applied. Nothing is
    /// written. Exit code 0: nothing to do, 2: there is.
    Plan(Planned),
    /// Crawl a running fleet from any of its servers, and print a manifest in which it is as it is now: groups read off
    /// the tree, `automation: Observe`, and what is to be known as comments. Nothing is written to any server, and no
    /// cluster is needed. Exit code 0: applying it moves nobody, 2: something could not be reached or would be moved, 3:
    /// it cannot be declared.
    Adopt(adopt::Adopt),
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the ReplicaTopology.
    name: String,
    /// How to print it.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

#[derive(Debug, Args)]
struct Planned {
    /// Name of the ReplicaTopology.
    name: String,
    /// A manifest to plan for instead of the applied one.
    #[arg(long, short)]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Does what the arguments say.
///
/// # Errors
/// Whatever kept it from being done; the exit code is then 1.
pub async fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let (context, namespace) = (arguments.context, arguments.namespace);
    let code = match arguments.verb {
        Verb::Adopt(what) => adopt::run(&what, namespace.as_deref(), out).await?,
        Verb::Tree(named) => {
            let (client, namespace) = cluster(context, namespace).await?;
            let applied = topology(&client, &namespace, &named.name).await?;
            tree(&look(&client, &namespace, &applied).await?, named.output, out)?
        }
        Verb::Plan(planned) => {
            let (client, namespace) = cluster(context, namespace).await?;
            let mut topology = topology(&client, &namespace, &planned.name).await?;
            if let Some(file) = &planned.file {
                topology.spec = manifest(file)?.spec;
            }
            plan(&look(&client, &namespace, &topology).await?, out)?
        }
    };
    Ok(ExitCode::from(code))
}

/// The cluster of the kubeconfig or of the pod, and the namespace to look in.
async fn cluster(context: Option<String>, namespace: Option<String>) -> anyhow::Result<(Client, String)> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = match Kubeconfig::read() {
        Ok(file) => kube::Config::from_custom_kubeconfig(file, &options).await?,
        Err(_) => kube::Config::incluster().context("there is no kubeconfig and this is no pod")?,
    };
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    Ok((Client::try_from(config)?, namespace))
}

fn manifest(file: &PathBuf) -> anyhow::Result<ReplicaTopology> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("{} is no ReplicaTopology", file.display()))
}

fn tree(look: &Look, output: Output, out: &mut impl Write) -> anyhow::Result<u8> {
    let lines = draw::lines(&look.desired, &look.observed, &look.plan);
    match output {
        Output::Text => write!(out, "{}", draw::text(&lines))?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?,
    }
    let failing = look.plan.findings.iter().any(|finding| Diagnosis::is_failure(finding.diagnosis));
    Ok(if failing { DEGRADED } else { OK })
}

fn plan(look: &Look, out: &mut impl Write) -> anyhow::Result<u8> {
    write!(out, "{}", draw::plan_text(&look.plan))?;
    let mut steps = look.plan.steps.iter().chain(&look.plan.withheld);
    let calm = steps.all(|planned| planned.step.is_housekeeping()) && look.plan.waits.is_empty();
    Ok(if calm { OK } else { DEGRADED })
}
