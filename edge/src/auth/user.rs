use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use proto::Room;

/// Begins the name of a user's own room.
const OWN_ROOM: &str = "user:";

/// The id of a user: it fits in a room's name, also as `user:<id>`, and does not begin with `@`, the mark of publishers
/// (`PROTOCOL.md`, section 5). Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

/// Why a string is no user's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("a user's id does not fit in the name of a room")]
    Room,
    #[error("a user's id does not begin with @")]
    Publisher,
}

impl UserId {
    pub fn try_new(id: &str) -> Result<Self, UserError> {
        if id.starts_with('@') {
            return Err(UserError::Publisher);
        }
        // Both: the prefix would hide white space at the id's front, and takes some of the length.
        Room::try_new(id).and_then(|_| Room::try_new(&own_room(id))).map_err(|_| UserError::Room)?;
        Ok(Self(id.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The room that this user alone may join, and that all of its connections join by themselves.
    pub fn room(&self) -> Room {
        match Room::try_new(&own_room(&self.0)) {
            Ok(room) => room,
            Err(_) => unreachable!("checked when the id was made"),
        }
    }

    /// The id of the user whose own room this is; `None` for all other rooms.
    pub fn of_room(room: &Room) -> Option<&str> {
        room.strip_prefix(OWN_ROOM)
    }
}

fn own_room(id: &str) -> String {
    format!("{OWN_ROOM}{id}")
}

impl Deref for UserId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_fit_in_the_name_of_a_room() {
        for good in ["7", "ana maria", "é🦀", "a@b", "user:7", &"x".repeat(195)] {
            let user = UserId::try_new(good).unwrap();
            assert_eq!(user.as_str(), good);
            assert_eq!(UserId::of_room(&user.room()), Some(good));
        }
        for bad in ["", " 7", "7 ", "a\nb", "a\0", &"x".repeat(196)] {
            assert_eq!(UserId::try_new(bad), Err(UserError::Room), "{bad:?}");
        }
        for bad in ["@", "@shop"] {
            assert_eq!(UserId::try_new(bad), Err(UserError::Publisher), "{bad:?}");
        }
    }

    #[test]
    fn other_rooms_are_nobodys_own() {
        for name in ["order-42", "users:7", "User:7", "user"] {
            assert_eq!(UserId::of_room(&Room::try_new(name).unwrap()), None, "{name}");
        }
    }
}
