//! Which primary has which slot.

use std::{ops::RangeInclusive, sync::Arc};

use proto::Room;
use redis::Value;

use crate::broker::redis::{
    address::Server,
    keys::{Keys, SLOTS},
    primary::Primary,
    script::text,
};

/// The primary of each slot, as far as known.
#[derive(Debug, Default)]
pub(super) struct Slots {
    owners: Vec<Option<Arc<Primary>>>,
    primaries: Vec<Arc<Primary>>,
}

impl Slots {
    pub(super) fn new(shares: &[(Arc<Primary>, Vec<RangeInclusive<u16>>)]) -> Self {
        let mut owners = vec![None; usize::from(SLOTS)];
        for (primary, ranges) in shares {
            for slot in ranges.iter().cloned().flatten() {
                if let Some(owner) = owners.get_mut(usize::from(slot)) {
                    *owner = Some(Arc::clone(primary));
                }
            }
        }
        Self { owners, primaries: shares.iter().map(|(primary, _)| Arc::clone(primary)).collect() }
    }

    pub(super) fn owner(&self, room: &Room) -> Option<&Arc<Primary>> {
        self.owner_of(Keys::slot(room))
    }

    pub(super) fn owner_of(&self, slot: u16) -> Option<&Arc<Primary>> {
        self.owners.get(usize::from(slot))?.as_ref()
    }

    /// Those that have slots.
    pub(super) fn primaries(&self) -> &[Arc<Primary>] {
        &self.primaries
    }
}

/// What one server of the Cluster says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    /// It is with the majority, as far as it knows.
    pub(super) well: bool,
    /// Of two views the one of the higher epoch is the later.
    pub(super) epoch: u64,
    pub(super) shares: Vec<(Server, Vec<RangeInclusive<u16>>)>,
    /// Replicas, who know the same.
    pub(super) others: Vec<Server>,
}

impl View {
    /// From the answers to CLUSTER INFO and CLUSTER SLOTS of the server at `from`.
    pub(super) fn read(info: Value, slots: Value, from: &Server) -> Option<Self> {
        let info = text(info)?;
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let (mut shares, mut others) = (Vec::<(Server, Vec<RangeInclusive<u16>>)>::new(), Vec::new());
        let Value::Array(ranges) = slots else { return None };
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let mut range = range.into_iter();
            let (Some(Value::Int(first)), Some(Value::Int(last)), Some(primary)) =
                (range.next(), range.next(), range.next())
            else {
                return None;
            };
            let slots = u16::try_from(first).ok()?..=u16::try_from(last).ok()?;
            let primary = server(primary, from)?;
            match shares.iter_mut().find(|(known, _)| *known == primary) {
                Some((_, ranges)) => ranges.push(slots),
                None => shares.push((primary, vec![slots])),
            }
            others.extend(range.filter_map(|replica| server(replica, from)));
        }
        others.dedup();
        Some(Self {
            well: field("cluster_state") == Some("ok"),
            epoch: field("cluster_current_epoch")?.parse().ok()?,
            shares,
            others,
        })
    }
}

/// Host and port; a server that does not know its own host is where it was asked.
fn server(value: Value, from: &Server) -> Option<Server> {
    let Value::Array(fields) = value else { return None };
    let mut fields = fields.into_iter();
    let host = text(fields.next()?).filter(|host| !host.is_empty() && host != "?");
    let Some(Value::Int(port)) = fields.next() else { return None };
    Some(Server { host: host.unwrap_or_else(|| from.host.clone()), port: u16::try_from(port).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_read() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node =
            |host: &str, port| Value::Array(vec![bulk(host), Value::Int(port), bulk("id"), Value::Array(vec![])]);
        let range =
            |first, last, nodes: &[Value]| Value::Array([&[Value::Int(first), Value::Int(last)], nodes].concat());
        let slots = Value::Array(vec![
            range(0, 1, &[node("a", 1), node("b", 2)]),
            range(5, 5, &[node("a", 1), node("b", 2)]),
            range(2, 4, &[node("", 7)]),
        ]);
        let at = |host: &str, port| Server { host: host.to_owned(), port };
        let info = bulk("cluster_state:ok\r\ncluster_current_epoch:6\r\n");
        let view = View::read(info, slots, &at("here", 9)).unwrap();
        let expected = View {
            well: true,
            epoch: 6,
            shares: vec![(at("a", 1), vec![0..=1, 5..=5]), (at("here", 7), vec![2..=4])],
            others: vec![at("b", 2)],
        };
        assert_eq!(view, expected);
        assert_eq!(View::read(bulk(""), Value::Array(vec![]), &at("here", 9)), None);
    }
}
