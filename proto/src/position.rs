use std::{fmt, ops::Deref, sync::Arc};

use crate::wire;

/// One run of a room's numbering. Opaque to clients; `<generation>-<random>`, both hexadecimal, to the broker that made
/// it: of two epochs of a room the one with the higher generation is the later. Empty: never published to.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Epoch(Option<Arc<str>>);

impl Epoch {
    pub fn new(epoch: &str) -> Self {
        Self((!epoch.is_empty()).then(|| epoch.into()))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Place of this epoch among those of its room; 0 when it has none.
    pub fn generation(&self) -> u64 {
        let digits = self.as_str().split('-').next().unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or(0)
    }
}

impl Deref for Epoch {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A place in a room's history: after the publication numbered `seq` of `epoch`.
/// The default, epoch `""` and `seq` 0, is that of a room never published to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub epoch: Epoch,
    pub seq: u64,
}

/// Largest `seq`: no store and no browser numbers exactly beyond it, and no sum of what a peer says overflows.
pub const MAX_SEQ: u64 = 1 << 53;

impl Position {
    /// A `seq` that cannot be is taken for the largest.
    pub fn new(epoch: &str, seq: u64) -> Self {
        Self { epoch: Epoch::new(epoch), seq: seq.min(MAX_SEQ) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.seq)
    }
}

impl From<wire::Position> for Position {
    fn from(wire: wire::Position) -> Self {
        Self::new(&wire.epoch, wire.seq)
    }
}

impl From<Position> for wire::Position {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch.as_str().to_owned(), seq: position.seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_order_epochs() {
        assert_eq!(Epoch::new("1f-00ff").generation(), 31);
        assert_eq!(Epoch::default().generation(), 0);
        assert_eq!(Epoch::new("nonsense").generation(), 0);
    }

    #[test]
    fn sums_of_a_seq_do_not_overflow() {
        let wire = wire::Position { epoch: "1-a".into(), seq: u64::MAX };
        for position in [Position::new("1-a", u64::MAX), wire.into()] {
            assert_eq!(position.seq, MAX_SEQ);
        }
    }

    #[test]
    fn positions_survive_the_wire() {
        for position in [Position::default(), Position::new("1-a", 7)] {
            assert_eq!(Position::from(wire::Position::from(position.clone())), position);
        }
    }
}
