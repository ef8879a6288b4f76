//! Which link serves a room, what it is asked, and what its answers mean.

use proto::Position;

use super::{Cx, HubRoom, Item};
use crate::{
    interest::{LinkId, Placement, Wish},
    protocol::server::LostReason,
};

impl HubRoom {
    /// Moves at once if its link is gone. True if it has one that serves it, and a better one to move to in its turn.
    pub(in crate::hub) fn check_place(&mut self, cx: &mut Cx<'_>) -> bool {
        let placement = cx.placement;
        // A page may have been asked for over the link that the room has moved away from.
        if let Some(replay) = &mut self.replay {
            replay.forget_read(|link| placement.get(link).is_none());
        }
        let served = self.link.is_some_and(|link| placement.get(link).is_some());
        if served {
            return !placement.is_still() && placement.place(&self.name).is_some_and(|best| self.link != Some(best.id));
        }
        self.place(cx);
        false
    }

    /// Tells the links what is wanted of the room, given those that are up now.
    pub(in crate::hub) fn place(&mut self, cx: &mut Cx<'_>) {
        self.move_to_best(cx.placement);
    }

    fn move_to_best(&mut self, placement: &Placement) {
        if placement.is_still() && self.link.is_some_and(|link| placement.get(link).is_some()) {
            return;
        }
        let Some(best) = placement.place(&self.name) else {
            self.link = self.link.filter(|link| placement.get(*link).is_some());
            return;
        };
        if self.link == Some(best.id) {
            return;
        }
        // Back to the one it was moving away from: that one stays.
        self.leaving.take_if(|leaving| *leaving == best.id);
        let before = self.link.replace(best.id).filter(|link| placement.get(*link).is_some());
        if let Some(before) = before {
            self.abandon(placement, self.leaving);
            self.leaving = Some(before);
            #[cfg(simulation)]
            if service::simulation::is_off(service::simulation::Check::MakeBeforeBreak) {
                let leaving = self.leaving.take();
                self.abandon(placement, leaving);
            }
        }
        // There may have been none to read over for a while.
        if let Some(replay) = &mut self.replay {
            replay.look_at_all();
        }
        self.ask(placement);
    }

    /// Asks the link for everything after where the room stands.
    pub(in crate::hub) fn ask(&mut self, placement: &Placement) {
        if let Some(link) = self.link.and_then(|link| placement.get(link)) {
            link.interest.set(self.name.clone(), Wish { wanted: true, position: self.received.clone() });
            self.asked = true;
        }
    }

    /// Tells the links that the room is no longer wanted.
    pub(in crate::hub) fn give_up(&self, placement: &Placement) {
        self.abandon(placement, self.link);
        self.abandon(placement, self.leaving);
    }

    fn abandon(&self, placement: &Placement, link: Option<LinkId>) {
        if let Some(link) = link.and_then(|link| placement.get(link)) {
            link.interest.set(self.name.clone(), Wish { wanted: false, position: None });
        }
    }

    /// The link's answer to what was asked. `missed_after`: where it was asked from, if something was missed since.
    pub(in crate::hub) fn state(
        &mut self,
        from: LinkId,
        position: Position,
        missed_after: Option<&Position>,
        cx: &mut Cx<'_>,
    ) {
        if self.link != Some(from) {
            return;
        }
        self.asked = false;
        let leaving = self.leaving.take();
        self.abandon(cx.placement, leaving);
        match &self.received {
            None => {
                // Those who wait are admitted in the course of walks.
                self.handed = position.clone();
                self.received = Some(position);
            }
            Some(before) if !is_ahead(&position, before) => {}
            // An answer to what was asked from elsewhere says nothing of what lies between.
            Some(before) if missed_after == Some(before) => self.lost(position, LostReason::Failover),
            Some(_) => self.ask(cx.placement),
        }
    }

    /// A link says that continuity is broken. Only the one that serves the room knows; of another, it is of the past.
    /// `after`: where that link's delivery stood before.
    pub(in crate::hub) fn lost_by(
        &mut self,
        from: LinkId,
        position: Position,
        reason: LostReason,
        after: Option<&Position>,
        placement: &Placement,
    ) {
        let Some(received) = self.received.as_ref().filter(|_| self.link == Some(from)) else { return };
        let waits = self.asked || self.dropped;
        // What came before it was dropped here, or lies in an epoch that we have left, and between here and there may be
        // more. It is asked for again, and what is lost is said again.
        let missing = after.map_or(waits, |after| after.epoch != received.epoch || after.seq > received.seq);
        // A store that was wiped has no epoch to name.
        let left = received.epoch.generation() > position.epoch.generation() && !position.epoch.is_empty();
        if !missing && !left {
            self.lost(position, reason);
        } else if missing && !waits {
            self.ask(placement);
        }
    }

    /// Continuity is broken: delivery goes on after `position`. `reason`: should the epoch be another one.
    fn lost(&mut self, position: Position, reason: LostReason) {
        let Some(received) = &mut self.received else { return };
        let same = received.epoch == position.epoch;
        // The same loss told twice, by two links, is one.
        if same && received.seq >= position.seq {
            return;
        }
        // A link may tell of more than this, from an epoch that we have left before.
        let reason = if same { LostReason::History } else { reason };
        received.clone_from(&position);
        self.pending.push_back(Item::Lost { position, reason });
    }
}

/// Whether the position is further in our epoch, or in a later one; a store that was wiped has none to name.
fn is_ahead(position: &Position, of: &Position) -> bool {
    let (theirs, ours) = (&position.epoch, &of.epoch);
    if theirs == ours { position.seq > of.seq } else { theirs.is_empty() || theirs.generation() >= ours.generation() }
}
