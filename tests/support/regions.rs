//! Simulated fleets of any size.
#![allow(dead_code, unreachable_pub, reason = "not every test binary uses it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use waltree::api::ReplicaTopologySpec;
use waltree::simulate::shape::Shape;

/// A fleet of regions of six relays and what they feed.
pub fn spec(nodes: usize) -> ReplicaTopologySpec {
    let mut shape = Shape::default();
    shape.group(&["core", "3", "zones=a,b,c", "fanOut=100"]).unwrap();
    let regions = (nodes / 250).max(1);
    for region in 0..regions {
        let size = ((nodes - 3) / regions).to_string();
        let relays = if nodes < 250 { "relays=4" } else { "relays=6" };
        let name = format!("r{region}");
        let fields = [&name, &size, relays, "upstreams=core", "fanOut=50", "zones=a,b,c"];
        shape.group(&fields.map(|field: &str| field)).unwrap();
    }
    shape.set(&["limits.crossRegionStreams", "6"]).unwrap();
    shape.spec().unwrap()
}
