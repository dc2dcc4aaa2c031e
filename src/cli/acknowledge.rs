//! `kubectl waltree acknowledge`.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};

use super::{OK, REFUSED};
use crate::api::acknowledge::{ACKNOWLEDGE, ACKNOWLEDGE_CHARS_MAX};
use crate::api::{ReplicaTopology, access};
use crate::model::NodeName;

/// Whose past is to be forgotten.
#[derive(Debug, Args)]
pub(super) struct Acknowledge {
    /// Name of the ReplicaTopology.
    pub(super) name: String,
    /// Names of nodes; all of them when none is given.
    nodes: Vec<String>,
}

impl Acknowledge {
    /// Sets the annotation, with the time in it, so that it can be said again.
    pub(super) async fn run(
        &self,
        topologies: &Api<ReplicaTopology>,
        topology: &ReplicaTopology,
        out: &mut impl Write,
    ) -> anyhow::Result<u8> {
        let known = |name: &&String| NodeName::new(name).is_ok_and(|node| access(&topology.spec, &node).is_some());
        if let Some(unknown) = self.nodes.iter().find(|name| !known(name)) {
            writeln!(out, "there is no {unknown} in {}", self.name)?;
            return Ok(REFUSED);
        }
        let nodes = if self.nodes.is_empty() { "all".to_owned() } else { self.nodes.join(",") };
        let value = format!("{nodes} {}", Timestamp::now());
        if value.chars().count() > ACKNOWLEDGE_CHARS_MAX {
            writeln!(out, "these are too many names: give fewer, or none for all")?;
            return Ok(REFUSED);
        }
        let patch = serde_json::json!({"metadata": {"annotations": {ACKNOWLEDGE: value}}});
        topologies.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        writeln!(out, "acknowledged: {nodes}. The operator forgets what they failed before, and says so in an event.")?;
        Ok(OK)
    }
}
