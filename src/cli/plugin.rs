//! `kubectl waltree`: the verbs for people.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::Client;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::acknowledge::Acknowledge;
use super::history::History;
use super::look::{Look, applied, look, topology, with_the_spec_of};
use super::proposal::{self, Planned};
use super::what_if::WhatIf;
use super::why::Why;
use super::{DEGRADED, OK, adopt, draw, validate};
use crate::api::ReplicaTopology;
use crate::model::Desired;

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
    /// Exit code 0: nothing is wrong and everybody receives from the server that the spec gives it, 2: not so.
    Tree(Named),
    /// Show what would be done and why, what is waited for, and who would receive from whom; with -f, if that manifest were
    /// applied, which it need not have been yet. Nothing is written. Exit code 0: nothing to do and nothing wrong, 2: there is.
    Plan(Planned),
    /// Crawl a running fleet from any of its servers, and print a manifest in which it is as it is now: groups read off
    /// the tree, `automation: Observe`, and what is to be known as comments. Nothing is written to any server, and no
    /// cluster is needed. Exit code 0: applying it moves nobody, 2: something could not be reached or would be moved, 3:
    /// it cannot be declared.
    Adopt(adopt::Adopt),
    /// Show what would happen if servers were lost: who goes where at once and then, what is sent again, which limits
    /// would be exceeded. Tried out on the servers as they are seen now; nothing is touched. Exit code 0: survived by
    /// PostgreSQL alone, 2: not, or a group has no node left to read from, 3: there is no such
    /// server, or the manifest is refused.
    WhatIf(WhatIf),
    /// Show why a node is where it is: which route is wanted and why, what both ends say and how old that is, who could feed
    /// it and is ready, what comes next. Exit code 0: nothing is wrong with it, 2: something is, 3: there is no such node.
    Why(Why),
    /// Show what changed in the tree and what was done, the newest last.
    History(History),
    /// Say that nodes were looked at: what they failed before is not held against them any more, so that they get their
    /// children back at once. Exit code 3: there is no such node.
    Acknowledge(Acknowledge),
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the ReplicaTopology.
    name: String,
    /// How to print it.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Does what the arguments say.
///
/// # Errors
/// Whatever kept it from being done; the exit code is then 1, and 3 where a file is refused.
pub async fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Arguments { context, namespace, verb } = arguments;
    // What has no effect is not taken: whoever gave it expects one.
    let asks_nobody = match &verb {
        Verb::Adopt(_) => context.is_some().then_some("adopt asks no API server: leave --context out"),
        Verb::WhatIf(what) if what.file.is_some() => (context.is_some() || namespace.is_some())
            .then_some("what-if -f asks no API server: leave --context and --namespace out"),
        _ => None,
    };
    if let Some(cure) = asks_nobody {
        bail!(cure);
    }
    let cluster = || Cluster::connect(context, namespace.clone());
    let code = match verb {
        Verb::Adopt(what) => adopt::run(&what, namespace.as_deref(), out).await?,
        Verb::Tree(named) => tree(&cluster().await?.look(&named.name).await?.1, named.output, out)?,
        Verb::Plan(planned) => {
            let cluster = cluster().await?;
            let mut topology = applied(&cluster.client, &cluster.namespace, &planned.name).await?;
            let before = topology.as_ref().and_then(|topology| Desired::try_from(&topology.spec).ok());
            if let Some(file) = &planned.file {
                let manifest = validate::only_topology(file)?;
                if let Some(other) = manifest.metadata.name.filter(|name| *name != planned.name) {
                    bail!("{} is the manifest of {other}, not of {}", file.display(), planned.name);
                }
                // kubectl would not apply it there either.
                if let Some(other) = manifest.metadata.namespace.filter(|name| *name != cluster.namespace) {
                    let file = file.display();
                    bail!(
                        "{file} is a manifest of the namespace {other}, and planned is in {}: say -n {other}",
                        cluster.namespace
                    );
                }
                topology = Some(with_the_spec_of(file, &planned.name, manifest.spec, topology)?);
            }
            let topology = topology.ok_or_else(|| {
                let (namespace, name) = (&cluster.namespace, &planned.name);
                anyhow!("there is no ReplicaTopology {namespace}/{name}; plan a new one by its manifest, with -f FILE")
            })?;
            let look = look(&cluster.client, &cluster.namespace, &topology).await?;
            proposal::show(&planned, &look, before.as_ref(), out)?
        }
        Verb::WhatIf(what) => {
            if let Some(file) = &what.file {
                what.declared(validate::only_topology(file)?.spec, out)?
            } else {
                let (topology, look) = cluster().await?.look(what.name.as_deref().unwrap_or_default()).await?;
                what.seen(topology, &look, out)?
            }
        }
        Verb::Why(what) => {
            let (topology, look) = cluster().await?.look(&what.name).await?;
            what.run(&topology, &look, out)?
        }
        Verb::History(what) => {
            let cluster = cluster().await?;
            let topology = cluster.topology(&what.name).await?;
            what.run(&Api::namespaced(cluster.client, &cluster.namespace), &topology, out).await?
        }
        Verb::Acknowledge(what) => {
            let cluster = cluster().await?;
            let topology = cluster.topology(&what.name).await?;
            what.run(&Api::namespaced(cluster.client, &cluster.namespace), &topology, out).await?
        }
    };
    Ok(ExitCode::from(code))
}

/// The API server and the namespace that were asked for.
struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn connect(context: Option<String>, namespace: Option<String>) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = match Kubeconfig::read() {
            Ok(file) => kube::Config::from_custom_kubeconfig(file, &options).await?,
            Err(error) if options.context.is_some() => return Err(error).context("--context needs a kubeconfig"),
            Err(error) if std::env::var_os("KUBECONFIG").is_some() => {
                return Err(error).context("the kubeconfig that KUBECONFIG names cannot be read");
            }
            Err(_) => kube::Config::incluster().context("there is no kubeconfig and this is no pod")?,
        };
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    async fn topology(&self, name: &str) -> anyhow::Result<ReplicaTopology> {
        topology(&self.client, &self.namespace, name).await
    }

    /// A topology, and its servers as they are seen from here.
    async fn look(&self, name: &str) -> anyhow::Result<(ReplicaTopology, Look)> {
        let topology = self.topology(name).await?;
        let look = look(&self.client, &self.namespace, &topology).await?;
        Ok((topology, look))
    }
}

fn tree(look: &Look, output: Output, out: &mut impl Write) -> anyhow::Result<u8> {
    let lines = draw::lines(&look.desired, &look.observed, &look.earlier, &look.plan);
    match output {
        Output::Text => write!(out, "{}", draw::text(&lines))?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?,
    }
    Ok(if draw::is_as_declared(&lines, &look.plan) { OK } else { DEGRADED })
}
