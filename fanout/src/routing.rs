//! Rooms ⇄ attachments, pure. A room is there from the first join until it is forgotten, with what the caller keeps
//! for it; an attachment while it is in any room.

use hashbrown::{HashMap, HashSet};
use proto::Room;
use service::RandomState;
use smallvec::SmallVec;

use crate::attachments::AttachmentId;

/// A room's data and its members: attachments, each with data of its own.
#[derive(Debug)]
pub(crate) struct Entry<R, M> {
    pub(crate) data: R,
    /// Dense, in no order. Most rooms of a large tier have one.
    pub(crate) members: SmallVec<[(AttachmentId, M); 1]>,
}

impl<R, M> Entry<R, M> {
    pub(crate) fn member_mut(&mut self, id: AttachmentId) -> Option<&mut M> {
        self.members.iter_mut().find(|(member, _)| *member == id).map(|(_, data)| data)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Routing<R, M> {
    /// Boxed, as up to half of a table are empty places, and growing moves all of it.
    rooms: HashMap<Room, Box<Entry<R, M>>, RandomState>,
    attachments: HashMap<AttachmentId, HashSet<Room, RandomState>, RandomState>,
}

impl<R, M> Default for Routing<R, M> {
    fn default() -> Self {
        Self { rooms: HashMap::default(), attachments: HashMap::default() }
    }
}

impl<R, M> Routing<R, M> {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }

    pub(crate) fn get_mut(&mut self, room: &Room) -> Option<&mut Entry<R, M>> {
        self.rooms.get_mut(room).map(|entry| &mut **entry)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Room, &Entry<R, M>)> {
        self.rooms.iter().map(|(room, entry)| (room, &**entry))
    }

    /// The room's entry, made by `new` if it is not there.
    pub(crate) fn open(&mut self, room: &Room, new: impl FnOnce() -> R) -> &mut Entry<R, M> {
        self.rooms.entry(room.clone()).or_insert_with(|| Box::new(Entry { data: new(), members: SmallVec::new() }))
    }

    /// Puts the attachment into an open room, or replaces its data there. True if it was not in it.
    pub(crate) fn join(&mut self, room: &Room, id: AttachmentId, member: M) -> bool {
        let Some(entry) = self.rooms.get_mut(room) else { return false };
        if let Some(known) = entry.member_mut(id) {
            *known = member;
            return false;
        }
        entry.members.push((id, member));
        self.attachments.entry(id).or_default().insert(room.clone());
        true
    }

    /// Takes the attachment out of a room; true if it was in it.
    pub(crate) fn leave(&mut self, room: &Room, id: AttachmentId) -> bool {
        if let Some(rooms) = self.attachments.get_mut(&id) {
            rooms.remove(room);
            if rooms.is_empty() {
                self.attachments.remove(&id);
            }
        }
        self.take_out(room, id)
    }

    /// Takes the attachment out of all rooms, and returns them.
    pub(crate) fn remove(&mut self, id: AttachmentId) -> Vec<Room> {
        let rooms: Vec<Room> = self.attachments.remove(&id).unwrap_or_default().into_iter().collect();
        for room in &rooms {
            self.take_out(room, id);
        }
        rooms
    }

    /// Forgets a room without members; true if it did.
    pub(crate) fn forget(&mut self, room: &Room) -> bool {
        let empty = self.rooms.get(room).is_some_and(|entry| entry.members.is_empty());
        if empty {
            self.rooms.remove(room);
        }
        empty
    }

    fn take_out(&mut self, room: &Room, id: AttachmentId) -> bool {
        let Some(entry) = self.rooms.get_mut(room) else { return false };
        let Some(index) = entry.members.iter().position(|(member, _)| *member == id) else { return false };
        entry.members.swap_remove(index);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8, u64),
        Leave(u8, u64),
        Remove(u64),
        Forget(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u8, 0..5u64).prop_map(|(room, id)| Step::Join(room, id)),
            2 => (0..6u8, 0..5u64).prop_map(|(room, id)| Step::Leave(room, id)),
            1 => (0..5u64).prop_map(Step::Remove),
            1 => (0..6u8).prop_map(Step::Forget),
        ]
    }

    fn name(room: u8) -> Room {
        Room::try_new(&format!("room-{room}")).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_pairs(steps in prop::collection::vec(step(), 0..200)) {
            let mut routing: Routing<(), u64> = Routing::default();
            let mut model: BTreeMap<u8, BTreeSet<u64>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join(room, id) => {
                        routing.open(&name(room), || ());
                        let new = routing.join(&name(room), AttachmentId(id), id);
                        prop_assert_eq!(new, model.entry(room).or_default().insert(id));
                    }
                    Step::Leave(room, id) => {
                        let was = model.get_mut(&room).is_some_and(|members| members.remove(&id));
                        prop_assert_eq!(routing.leave(&name(room), AttachmentId(id)), was);
                    }
                    Step::Remove(id) => {
                        let mut left: Vec<Room> = routing.remove(AttachmentId(id));
                        left.sort();
                        let were: Vec<_> = model.iter_mut().filter_map(|(room, members)| members.remove(&id).then(|| name(*room))).collect();
                        prop_assert_eq!(left, were);
                    }
                    Step::Forget(room) => {
                        let empty = model.get(&room).is_some_and(BTreeSet::is_empty);
                        prop_assert_eq!(routing.forget(&name(room)), empty);
                        if empty { model.remove(&room); }
                    }
                }
                prop_assert_eq!(routing.len(), model.len());
                for (room, members) in &model {
                    let entry = routing.get_mut(&name(*room)).unwrap();
                    let found: BTreeSet<u64> = entry.members.iter().map(|(_, id)| *id).collect();
                    prop_assert_eq!(&found, members);
                    prop_assert_eq!(entry.members.len(), members.len());
                }
                let attached: BTreeSet<u64> = model.values().flatten().copied().collect();
                prop_assert_eq!(routing.attachments.len(), attached.len(), "pruned with the last room");
            }
        }
    }
}
