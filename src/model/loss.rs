//! What may be lost at once: a node, or everything in a zone or a region.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::{Desired, NodeName};

/// Servers that are lost together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// One server.
    Node(NodeName),
    /// Every server of a zone.
    Zone(String),
    /// Every server of a region; the hosts of groups without one are a region of their own, "".
    Region(String),
}

/// Text that names no loss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no loss: write NODE, zone=NAME or region=NAME")]
pub struct NotALoss(pub String);

impl Loss {
    /// Whom it takes.
    pub fn members<'a>(&self, desired: &'a Desired) -> BTreeSet<&'a NodeName> {
        let all = desired.nodes.keys();
        match self {
            Self::Node(node) => all.filter(|name| *name == node).collect(),
            Self::Zone(zone) => all.filter(|name| desired.zone_of(name) == Some(zone.as_str())).collect(),
            Self::Region(region) => all.filter(|name| desired.region_of(name) == region.as_str()).collect(),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "{node}"),
            Self::Zone(zone) => write!(f, "zone {zone}"),
            Self::Region(region) if region.is_empty() => f.write_str("the hosts without a region"),
            Self::Region(region) => write!(f, "region {region}"),
        }
    }
}

impl FromStr for Loss {
    type Err = NotALoss;

    fn from_str(text: &str) -> Result<Self, NotALoss> {
        match text.split_once('=') {
            Some(("zone", zone)) if !zone.is_empty() => Ok(Self::Zone(zone.to_owned())),
            Some(("region", region)) => Ok(Self::Region(region.to_owned())),
            Some(_) => Err(NotALoss(text.to_owned())),
            None => NodeName::new(text).map(Self::Node).map_err(|_| NotALoss(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_node_a_zone_or_a_region() {
        let loss = |text: &str| text.parse::<Loss>().map(|loss| loss.to_string());
        assert_eq!(loss("eu-1").as_deref(), Ok("eu-1"));
        assert_eq!(loss("zone=a").as_deref(), Ok("zone a"));
        assert_eq!(loss("region=eu").as_deref(), Ok("region eu"));
        assert_eq!(loss("region=").as_deref(), Ok("the hosts without a region"));
        for wrong in ["", "zone=", "rack=7", "Eu_1"] {
            assert_eq!(loss(wrong), Err(NotALoss(wrong.to_owned())));
        }
    }
}
