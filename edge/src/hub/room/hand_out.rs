//! Handing a room's publications to its members, in slices, with other rooms and the pumps in between.

use proto::Room;
use service::limit;
use tokio::time::Instant;

use super::{Cx, HubRoom, Item, ROOM_PENDING, ROOM_PENDING_BYTES};
use crate::{outbox::Outbox, protocol::ServerMessage};

/// Publications that wait to be handed out in a large room before its publishers are held back.
const CROWD_PENDING: usize = 64;

impl HubRoom {
    /// Hands what is pending to at most `members` members, in slices of at most half an outbox, less in a
    /// large room. Returns how many members it met, and how many frames were queued.
    pub(in crate::hub) fn walk(&mut self, members: usize, now: Instant, cx: &mut Cx<'_>) -> (usize, usize) {
        let admitted = self.admit_waiting(members, cx);
        let served = self.serve(members - admitted, cx);
        let (met, queued) = self.walk_pending(members - admitted - served, now, cx);
        (admitted + served + met, queued)
    }

    fn admit_waiting(&mut self, limit: usize, cx: &mut Cx<'_>) -> usize {
        if self.received.is_none() {
            return 0;
        }
        let admitted: Vec<_> = self.waiting.drain(..limit.min(self.waiting.len())).collect();
        if self.waiting.is_empty() {
            // Its memory is given back: most rooms never need it again.
            self.waiting = Vec::new();
        }
        let count = admitted.len();
        for joining in admitted {
            self.admit(joining, cx);
        }
        count
    }

    fn walk_pending(&mut self, most: usize, now: Instant, cx: &mut Cx<'_>) -> (usize, usize) {
        // Nothing is pending if those it was for have left.
        if most == 0 || !self.has_pending() {
            if self.pending.is_empty() {
                self.let_go_on(cx);
            }
            return (0, 0);
        }
        if !self.members.is_walking() {
            if !self.check_pace(now, cx) {
                return (0, 0);
            }
            self.begin_slice(cx);
        }
        if self.is_crowd() && self.pending.len() > limit(CROWD_PENDING) {
            self.hold_back(now, cx);
        }
        let (mut met, mut queued) = (0, 0);
        for member in self.members.walk(most) {
            met += 1;
            queued += hand(&self.name, &self.slice, member, cx.after_ms);
        }
        if !self.members.is_walking() {
            for item in self.slice.drain(..) {
                if let Item::Publication { delivery: Some(delivery), .. } = item {
                    cx.deliveries.handed_out(delivery);
                }
            }
            if self.pending.is_empty() {
                self.let_go_on(cx);
                // Bursts give their memory back.
                self.slice.shrink_to(4);
                self.pending.shrink_to(4);
            }
            if self.dropped
                && self.pending.len() < limit(ROOM_PENDING) / 2
                && self.pending_bytes < limit(ROOM_PENDING_BYTES) / 2
            {
                self.dropped = false;
                self.ask(cx.placement);
            }
        }
        (met, queued)
    }

    fn begin_slice(&mut self, cx: &mut Cx<'_>) {
        // Not empty if the last one it was for has left.
        self.slice.clear();
        self.members.begin_walk();
        // Without a member there is nothing to fit into.
        let limits = self.members.first_limits();
        // A large room looks at its members between two slices; some may be behind the others by several.
        let parts = if self.is_crowd() { 16 } else { 2 };
        let (mut frames, mut bytes) = (0, 0);
        while let Some(item) = self.pending.front() {
            let len = item.len();
            let fits = limits.is_none_or(|max| frames < max.frames.div_ceil(parts) && bytes + len <= max.bytes / parts);
            if !fits && frames > 0 {
                break;
            }
            frames += 1;
            bytes += len;
            if let Some(item) = self.pending.pop_front() {
                self.pending_bytes -= item.len();
                self.extend_tail(&item, cx);
                self.slice.push(item);
            }
        }
        self.count_pace(frames, bytes);
        if let Some(replay) = &mut self.replay {
            replay.moved_on();
        }
    }
}

/// Puts a slice into a member's outbox. Returns how many frames were queued.
pub(super) fn hand(room: &Room, slice: &[Item], member: &Outbox, after_ms: &mut dyn FnMut() -> u64) -> usize {
    for (queued, item) in slice.iter().enumerate() {
        let frame = match item {
            Item::Publication { frame, .. } => frame.clone(),
            Item::Lost { position, reason } => ServerMessage::lost(room, position, *reason, after_ms()).frame(),
        };
        if !member.push(frame) {
            return queued;
        }
    }
    slice.len()
}
