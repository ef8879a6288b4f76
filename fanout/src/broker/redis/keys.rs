//! Names of keys and channels. All of a room share a hash tag, so that they live on one node of a Cluster.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use proto::{Key, Room};

/// Would end the sender, or begin an escape: so no two pairs of sender and key meet.
const IN_SENDER: &AsciiSet = &CONTROLS.add(b':').add(b'%');

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    db: u32,
    /// What names of a room's keys and of its channel have before the room: they are made for each publication, and so
    /// without formatting.
    key: String,
    channel: String,
}

impl Keys {
    pub(super) fn new(prefix: String, db: u32) -> Self {
        let (key, channel) = (format!("{prefix}:{{"), format!("{prefix}:{db}:{{"));
        Self { prefix, db, key, channel }
    }

    /// Hash: epoch, seq, prev, replication ID.
    pub(super) fn meta(&self, room: &Room) -> String {
        [&*self.key, &escape(room), "}:meta"].concat()
    }

    /// Stream: the publications kept.
    pub(super) fn history(&self, room: &Room) -> String {
        [&*self.key, &escape(room), "}:history"].concat()
    }

    /// String: the position of the publication with this key.
    pub(super) fn key(&self, room: &Room, sender: &str, key: &Key) -> String {
        let sender = utf8_percent_encode(sender, IN_SENDER);
        format!("{}:{{{}}}:key:{sender}:{key}", self.prefix, escape(room))
    }

    /// Where a room's publications are announced. Channels know no databases, so the name does.
    pub(super) fn channel(&self, room: &Room) -> String {
        [&*self.channel, &escape(room), "}"].concat()
    }

    /// String: who the store is.
    pub(super) fn identity(&self) -> String {
        format!("{}:identity", self.prefix)
    }

    /// Sorted set: who was removed, by time.
    pub(super) fn removals(&self) -> String {
        format!("{}:removals", self.prefix)
    }

    /// Where a node, at this start of it, sends its pulse.
    pub(super) fn pulse(&self, boot: u64) -> String {
        format!("{}:{}:pulse:{boot:016x}", self.prefix, self.db)
    }

    /// The same for one server of a Cluster: the tag is what puts it into a slot of that server.
    pub(super) fn shard_pulse(&self, boot: u64, tag: u16) -> String {
        format!("{}:{}:pulse:{{{tag}}}:{boot:016x}", self.prefix, self.db)
    }

    /// The slot of all keys of a room in a Cluster, and of its channel.
    pub(super) fn slot(room: &Room) -> u16 {
        slot(escape(room).as_bytes())
    }

    /// The slot of the store's identity.
    pub(super) fn identity_slot(&self) -> u16 {
        slot(self.identity().as_bytes())
    }

    /// The slot of the removals.
    pub(super) fn removals_slot(&self) -> u16 {
        slot(self.removals().as_bytes())
    }

    /// The room that is announced on a channel; `None` if it is none of ours.
    pub(super) fn room_of(&self, channel: &str) -> Option<Room> {
        let name = channel.strip_prefix(&self.channel)?.strip_suffix('}')?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        Room::try_new(&name).ok()
    }
}

/// Slots of a Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a tag: CRC-16/XMODEM, as the Cluster specification has it.
pub(super) fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    });
    crc % SLOTS
}

fn escape(room: &Room) -> Cow<'_, str> {
    if room.contains(['{', '}', '%']) {
        // `%` first, so that no escape is escaped.
        room.replace('%', "%25").replace('{', "%7B").replace('}', "%7D").into()
    } else {
        Cow::Borrowed(room.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        Keys::new("rt".to_owned(), 3)
    }

    #[test]
    fn names_are_as_written() {
        let room = Room::try_new("a{b}%c").unwrap();
        assert_eq!(keys().meta(&Room::try_new("é🦀:").unwrap()), "rt:{é🦀:}:meta");
        let key = Key::try_new("k:1").unwrap().unwrap();
        assert_eq!(keys().meta(&room), "rt:{a%7Bb%7D%25c}:meta");
        assert_eq!(keys().history(&room), "rt:{a%7Bb%7D%25c}:history");
        assert_eq!(keys().key(&room, "a:b%", &key), "rt:{a%7Bb%7D%25c}:key:a%3Ab%25:k:1");
        assert_eq!(keys().channel(&room), "rt:3:{a%7Bb%7D%25c}");
        assert_eq!(keys().pulse(255), "rt:3:pulse:00000000000000ff");
        for foreign in ["rt:3:pulse:ff", "rt:2:{a}", "xx:3:{a}", "rt:3:{a", "rt:3:{}", "rt:{a}:meta"] {
            assert_eq!(keys().room_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(Keys::slot(&Room::try_new("a{b").unwrap()), slot(b"a%7Bb"));
        assert_eq!(keys().room_of(&keys().shard_pulse(1, 7)), None);
    }

    proptest! {
        #[test]
        fn a_channel_names_its_room(name in "\\PC{1,40}") {
            if let Ok(room) = Room::try_new(&name) {
                prop_assert_eq!(keys().room_of(&keys().channel(&room)), Some(room));
            }
        }

        #[test]
        fn no_two_pairs_of_sender_and_key_meet(a in "[a:%3A]{1,4}", b in "[a:%3A]{1,4}", k in "[a:%3A]{1,4}", l in "[a:%3A]{1,4}") {
            let room = Room::try_new("r").unwrap();
            let name = |sender: &str, key: &str| keys().key(&room, sender, &Key::try_new(key).unwrap().unwrap());
            prop_assert_eq!((&a, &k) == (&b, &l), name(&a, &k) == name(&b, &l));
        }
    }
}
