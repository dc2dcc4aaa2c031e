//! For how long the bound on retained WAL lasts, by upstream.

use super::world::{World, name};
use super::*;

#[test]
fn a_server_where_idle_slots_keep_much_tells_how_long_the_bound_lasts_there_and_the_others_are_silent() {
    let mut world = World::new();
    // 1 MiB a second: 10 GiB, the default bound, last for 2.8 hours.
    for second in [0, 100] {
        let sample = Sample { at: Millis(second * 1000), timeline: None, position: Lsn(second << 20) };
        world.memory().samples.push_back(sample);
    }
    world.plan.retained_bytes.insert(name("eu-1"), 16 << 20);
    let mut status = world.report(None, 100);
    assert_eq!(status.summary.as_ref().unwrap().retained_wal_lasts.as_deref(), Some("<6h"));
    let steps = [
        (2, None),
        (3, Some("<6h")),
        (4, Some("<6h")),
        (8, Some("<6h")),
        (9, Some("<1h")),
        (2, Some("<6h")),
        (1, None),
    ];
    for (gibibytes, expected) in steps {
        world.plan.retained_bytes.insert(name("core-2"), gibibytes << 30);
        let after = world.report(Some(&status), 200);
        let before = std::mem::replace(&mut status, after);
        let told: Vec<_> = status.nodes.iter().map(|node| node.retained_wal_lasts.as_deref()).collect();
        assert_eq!(told, [None, expected, None, None, None], "{gibibytes} GiB");
        // What moves by less than a step is no news.
        assert_eq!(status == before, before.nodes[1].retained_wal_lasts.as_deref() == expected, "{gibibytes} GiB");
    }
    // Of one that is not seen it is not known.
    world.plan.retained_bytes.insert(name("core-2"), 9 << 30);
    let status = world.report(Some(&status), 300);
    assert_eq!(status.nodes[1].retained_wal_lasts.as_deref(), Some("<1h"));
    world.plan.retained_bytes.remove(&name("core-2"));
    assert_eq!(world.report(Some(&status), 300).nodes[1].retained_wal_lasts, None);
}
