use proto::Room;

use super::UserId;

/// What a connection keeps of its token: 56 bytes beside the strings, as each idle connection has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub user: UserId,
    /// `exp`: from this second of Unix time on the token is worth nothing.
    pub expires: i64,
    pub rooms: RoomClaims,
    /// Rooms to join when the connection opens, as the token names them, unchecked.
    pub auto_join: Box<[Box<str>]>,
}

/// The rooms that a token by itself lets its user join. A user's own room is never a matter of claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoomClaims {
    /// `role` is `admin`.
    All,
    /// Names, or patterns with `*` at the end.
    Only(Box<[Box<str>]>),
}

impl RoomClaims {
    pub fn cover(&self, room: &Room) -> bool {
        match self {
            Self::All => true,
            Self::Only(entries) => entries.iter().any(|entry| match entry.strip_suffix('*') {
                Some(start) => room.starts_with(start),
                None => **entry == **room,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(entries: &[&str], room: &str) -> bool {
        let entries = entries.iter().map(|entry| (*entry).into()).collect();
        RoomClaims::Only(entries).cover(&Room::try_new(room).unwrap())
    }

    #[test]
    fn entries_are_names_or_begin_names() {
        assert!(cover(&["order-42"], "order-42"));
        assert!(!cover(&["order-42"], "order-421"));
        assert!(!cover(&["order-42"], "Order-42"));
        assert!(cover(&["chat", "order-*"], "order-42"));
        assert!(cover(&["order-*"], "order-"));
        assert!(!cover(&["order-*"], "reorder-42"));
        assert!(cover(&["*"], "anything at all"));
        assert!(!cover(&[], "order-42"));
        assert!(!cover(&[""], "order-42"));
    }

    #[test]
    fn a_star_elsewhere_is_a_letter() {
        assert!(!cover(&["a*z"], "abz"));
        assert!(cover(&["a*z"], "a*z"));
        assert!(cover(&["a*z*"], "a*zz"));
    }

    #[test]
    fn claims_are_small() {
        assert!(size_of::<Claims>() <= 56, "{}", size_of::<Claims>());
    }
}
