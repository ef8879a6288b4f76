//! What may go wrong, and the order in which it does.

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Fanout,
    Edge,
    Primary,
    Replica,
    Sentinel,
}

/// A kind of connection, by who answers on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Edge,
    Link,
    Api,
    Store,
    Sentinel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Dies without a word, and is started again.
    Kill(Part),
    /// Stands still for a while.
    Pause(Part),
    Cut(Way),
    HalfClose(Way),
    /// Everything takes longer for a while.
    Delay(Way),
    /// Nothing arrives for a while, one way or both, and nobody is told.
    Swallow(Way),
    /// What was acknowledged last dies with the primary.
    PromoteLaggingReplica,
    /// A room goes to another primary of the Cluster.
    MoveSlot,
}

/// Every kind of fault that this kind of store may see.
pub(super) fn kinds(cluster: bool) -> Vec<Fault> {
    let parts = [Part::Fanout, Part::Edge, Part::Primary, Part::Replica, Part::Sentinel];
    let ways = [Way::Edge, Way::Link, Way::Api, Way::Store, Way::Sentinel];
    let parts = parts.into_iter().filter(|part| !(cluster && *part == Part::Sentinel));
    let ways = ways.into_iter().filter(|way| !(cluster && *way == Way::Sentinel));
    let on_parts = parts.flat_map(|part| [Fault::Kill(part), Fault::Pause(part)]);
    let on_ways = ways.flat_map(|way| [Fault::Cut(way), Fault::HalfClose(way), Fault::Delay(way), Fault::Swallow(way)]);
    let moves = cluster.then_some(Fault::MoveSlot);
    on_parts.chain(on_ways).chain([Fault::PromoteLaggingReplica]).chain(moves).collect()
}

/// Their order, from the seed: each kind once before any comes again.
pub(super) fn order(kinds: &[Fault], random: &mut StdRng) -> impl Iterator<Item = Fault> + use<> {
    let (mut random, mut kinds) = (StdRng::from_rng(random), kinds.to_vec());
    std::iter::repeat_with(move || {
        kinds.shuffle(&mut random);
        kinds.clone()
    })
    .flatten()
}
