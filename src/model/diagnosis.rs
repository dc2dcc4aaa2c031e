//! What can be wrong with a node: one closed list, the source of condition reasons, events, metrics and the README.

use super::NodeName;

/// What is wrong with one node: the name is the reason in events and conditions, the documentation what is seen, the
/// message what is done about it, and the property `ends` when it is over, which an event `Recovered` tells. The worst first:
/// of two that fit, the upper one is told.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumIter,
    strum::EnumMessage,
    strum::EnumProperty,
    strum::IntoStaticStr,
)]
pub enum Diagnosis {
    /// It answers with another system identifier than the topology's: not our data.
    #[strum(
        message = "not touched, not counted, nobody is pointed at it",
        props(ends = "the server at its address has the topology's data")
    )]
    ForeignServer,
    /// PostgreSQL 14 or older: a change of route would need a restart to be safe and rights that cannot be granted.
    #[strum(
        message = "not touched",
        props(ends = "it runs 15 or later; a fleet that was upgraded as a whole is to be applied anew")
    )]
    VersionTooOld,
    /// It is in the spec by another name too: both tell the same start of the same server.
    #[strum(
        message = "written to by neither name, and nobody is moved to it; where it is the primary, which counts once, nobody is moved at all",
        props(ends = "one of the names has left the spec, or has an address of its own")
    )]
    SameServer,
    /// More than one server answers as a primary.
    #[strum(message = "nobody is moved until one is left", props(ends = "one answers as a primary"))]
    TwoPrimaries,
    /// It was a primary and is not any more, and has not been seen as a standby on the new history.
    #[strum(
        message = "in nobody's route until it is a standby again",
        props(ends = "it is a standby on the primary's history")
    )]
    ForeignPrimary,
    /// Most servers cannot be asked, in every zone: the trouble is ours.
    #[strum(message = "nothing is done anywhere until most are seen again", props(ends = "most servers are seen"))]
    BlindOperator,
    /// All servers of its zone, two or more, are out of sight.
    #[strum(
        message = "those outside are healed around it; nothing inside is touched",
        props(ends = "one of its servers is seen")
    )]
    ZoneDown,
    /// The primary refuses or resets connections.
    #[strum(
        message = "nobody is moved: nobody could have a path. Promotion is not waltree's yet",
        props(ends = "it is seen, or another primary is")
    )]
    DeadPrimary,
    /// The primary accepts connections and does not answer.
    #[strum(
        message = "nobody is moved: nobody could have a path. Promotion is not waltree's yet",
        props(ends = "it is seen, or another primary is")
    )]
    HungPrimary,
    /// It is to feed others by the spec, and refuses or resets connections.
    #[strum(
        message = "its children are on their fallbacks already; their routes are armed anew, and given back after it settled",
        props(ends = "it is seen; then it is `Settling`")
    )]
    DeadRelay,
    /// It is to feed others by the spec, accepts connections and does not answer, and nobody receives WAL from it.
    #[strum(
        message = "its children are pointed elsewhere once they stand still, and given back after it settled",
        props(ends = "it is seen; then it is `Settling`")
    )]
    HungRelay,
    /// It refuses or resets connections, and feeds nobody.
    #[strum(message = "reported; nobody else is touched", props(ends = "it is seen"))]
    DeadLeaf,
    /// It accepts connections and does not answer, and feeds nobody.
    #[strum(message = "reported; nobody else is touched", props(ends = "it is seen"))]
    HungLeaf,
    /// It was started again three times and more within ten minutes.
    #[strum(
        message = "it gets children only after settling, twice as long each time",
        props(ends = "it was started less than three times in the last ten minutes, or `acknowledge`")
    )]
    CrashLoop,
    /// It could not be asked at all; what it does is unknown.
    #[strum(
        message = "nothing: unseen is not dead. When all its children stand still they are pointed elsewhere",
        props(ends = "it is seen")
    )]
    Unseen,
    /// Its WAL is on a branch that the primary's history does not contain.
    #[strum(
        message = "out of all routes; rewind or re-clone it yourself",
        props(ends = "it is on the primary's history")
    )]
    Diverged,
    /// Another server streams by its name: a walsender of that name replies and is not at the other end of its own stream.
    #[strum(
        message = "the other is not followed or counted; where it holds the node's slot the node is not pointed to",
        props(ends = "the other streams no more, or by another name")
    )]
    DuplicateName,
    /// It is in a ring of servers that feed each other and nobody else feeds.
    #[strum(
        message = "its members are re-pointed, the one nearest the primary first",
        props(ends = "the WAL of each of them comes from the primary")
    )]
    Ring,
    /// It receives from a server that is not in the topology, or from one that its route does not name.
    #[strum(message = "pointed to its declared upstream", props(ends = "it receives from a server of its route"))]
    WrongUpstream,
    /// No upstream that it may have holds the WAL that it needs.
    #[strum(
        message = "reported: an archive or a clone is needed, and a host is never cloned anew by itself",
        props(ends = "WAL reaches it")
    )]
    WalGone,
    /// Replay is paused or blocked, so that no new route is acted on: by sessions, for longer than `healing.lagSeconds`.
    #[strum(message = "reported; the route is set once and acts when replay goes on", props(ends = "replay goes on"))]
    ReplayBlocked,
    /// Its disk takes no further segment of WAL, so nothing reaches it; what it has it goes on to serve.
    #[strum(
        message = "its children are pointed elsewhere; it goes on by itself when there is space, and is never cloned",
        props(ends = "WAL reaches it")
    )]
    DiskFull,
    /// Its walreceiver is ending and does not end, so a new route is not acted on.
    #[strum(message = "reported: only a restart of the server helps", props(ends = "that walreceiver is gone"))]
    WalReceiverStuck,
    /// A slot it needs does not exist on the upstream it receives from.
    #[strum(message = "created", props(ends = "the slot is there"))]
    MissingSlot,
    /// A slot of its was invalidated.
    #[strum(message = "made anew", props(ends = "the slot keeps WAL again"))]
    LostSlot,
    /// The slot it needs is held by a walsender of a connection that it does not have any more.
    #[strum(
        message = "that walsender is ended; without the right to, PostgreSQL does it after wal_sender_timeout",
        props(ends = "nobody else holds its slot")
    )]
    ZombieSlot,
    /// It feeds others, and nothing reaches it although its upstream is well.
    #[strum(
        message = "its children are pointed elsewhere, and it is given another upstream",
        props(ends = "WAL reaches it; then it is `Settling`")
    )]
    CutOffRelay,
    /// Nothing reaches it although its upstream is well.
    #[strum(
        message = "it is given another upstream, and asked back after settling, then twice as long, and so on",
        props(ends = "WAL reaches it")
    )]
    CutOffLeaf,
    /// It is well, and others have all its walsenders, or two or more who were pointed to it got nothing: pg_hba.conf, passwords.
    #[strum(
        message = "its children are led elsewhere, and asked back after settling, then twice as long, and so on",
        props(ends = "it has a free walsender and gives WAL to those who are asked back to it, or `acknowledge`")
    )]
    HalfRelay,
    /// It feeds others and receives later than `healing.lagSeconds`, while its upstream does not.
    #[strum(
        message = "its children are moved to others with room, a few at a time, and given back after it settled. Nobody is \
                   moved when the other relays of its group lag alike: what is slow is the way to all of them",
        props(ends = "it receives within `healing.lagSeconds`; then it is `Settling`")
    )]
    LaggingRelay,
    /// What its readers see is further behind than `healing.lagSeconds`.
    #[strum(message = "reported", props(ends = "what its readers see is within `healing.lagSeconds`"))]
    LaggingLeaf,
    /// An idle slot on it holds back the transactions that vacuum may remove, and it could not be cleared yet.
    #[strum(
        message = "cleared on the wire without losing the WAL it keeps, or made anew where that loses none",
        props(ends = "no idle slot on it holds any back")
    )]
    SlotHoldsXmin,
    /// A parameter is lower than on the primary, so that replay will stop.
    #[strum(message = "reported: raise it and restart the server", props(ends = "it is as high as on the primary"))]
    ParameterTooLow,
    /// Somebody else sets its `primary_conninfo` back.
    #[strum(
        message = "put back three times, then left alone",
        props(ends = "its route is ours again; it is tried once more after ten minutes, or at `acknowledge`")
    )]
    OtherWriter,
    /// Somebody else drops our slots on it, as Patroni does with slots that it does not know.
    #[strum(
        message = "made again at once three times, then twice a minute; at once when its owner needs it to stream",
        props(ends = "they have stayed for 20 s")
    )]
    SlotRemovedByOther,
    /// `allow_alter_system = off`.
    #[strum(message = "reported", props(ends = "it is on"))]
    AlterSystemOff,
    /// Our role lacks a right.
    #[strum(message = "reported, with the SQL that grants it", props(ends = "the role has it"))]
    MissingGrant,
    /// Its `primary_conninfo` holds a password, is a URI, or is empty, so its foreign keywords cannot be kept.
    #[strum(message = "reported", props(ends = "it holds none of these"))]
    UnusableConninfo,
    /// Nothing is wrong with it now; it failed a short while ago and has to stay well before it gets children.
    #[strum(
        message = "waited for",
        props(ends = "it was well for `healing.settleSeconds`, twice as long each time; or `acknowledge`")
    )]
    Settling,
}

impl Diagnosis {
    /// How bad it is: whether the topology cannot be `Converged` as long as it lasts.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Settling | Self::LaggingLeaf)
    }
}

/// One diagnosis with what was seen and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which node.
    pub node: NodeName,
    /// What is wrong.
    pub diagnosis: Diagnosis,
    /// What was seen, and what a person is to do, or "Nothing to do".
    pub message: String,
}

/// Words that have a capital for no other reason than that a sentence begins with them.
const BEGINNINGS: [&str; 7] = ["A", "All", "It", "Its", "No", "Nobody", "The"];

/// A sentence about a node, which is named in front unless the sentence begins with its name.
pub fn about(node: &str, text: &str) -> String {
    let rest = text.strip_prefix(node);
    let named = rest.is_some_and(|rest| rest.starts_with([' ', ':', ',']));
    if named {
        return text.to_owned();
    }
    match text.split_once(' ') {
        Some((first, rest)) if BEGINNINGS.contains(&first) => format!("{node}: {} {rest}", first.to_ascii_lowercase()),
        _ => format!("{node}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::about;

    #[test]
    fn a_node_is_named_once_in_front_of_what_is_said_about_it() {
        assert_eq!(about("eu-3", "eu-3 lags."), "eu-3 lags.");
        assert_eq!(about("eu-3", "eu-3: it is beyond the fork."), "eu-3: it is beyond the fork.");
        assert_eq!(about("eu-3", "eu-3, eu-4 both answer."), "eu-3, eu-4 both answer.");
        assert_eq!(about("eu-3", "eu-30 is down."), "eu-3: eu-30 is down.");
        assert_eq!(about("eu-3", "nobody feeds it."), "eu-3: nobody feeds it.");
        assert_eq!(about("eu-3", "Its disk is full. It waits."), "eu-3: its disk is full. It waits.");
        assert_eq!(about("eu-3", "TLS with it failed."), "eu-3: TLS with it failed.");
    }
}
