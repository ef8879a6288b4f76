use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// Longest name of a room, in bytes of UTF-8.
const MAX_ROOM_BYTES: usize = 200;

/// The name of a room: 1–200 bytes of UTF-8, no control characters, no leading or trailing white space
/// (`PROTOCOL.md`, section 2). Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Room(Arc<str>);

/// Why a string is no name of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    #[error("a room's name must not be empty")]
    Empty,
    #[error("a room's name has at most {MAX_ROOM_BYTES} bytes")]
    TooLong,
    #[error("a room's name has no control characters")]
    Control,
    #[error("a room's name has no white space at its ends")]
    Space,
}

impl Room {
    pub fn try_new(name: &str) -> Result<Self, RoomError> {
        if name.is_empty() {
            Err(RoomError::Empty)
        } else if name.len() > MAX_ROOM_BYTES {
            Err(RoomError::TooLong)
        } else if name.chars().any(char::is_control) {
            Err(RoomError::Control)
        } else if name.trim().len() != name.len() {
            Err(RoomError::Space)
        } else {
            Ok(Self(name.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Room {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Room {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Room::try_new("order-42").unwrap().as_str(), "order-42");
        assert_eq!(Room::try_new("two words é🦀").unwrap().as_str(), "two words é🦀");
        assert!(Room::try_new(&"x".repeat(200)).is_ok());
        assert_eq!(Room::try_new(""), Err(RoomError::Empty));
        assert_eq!(Room::try_new(&"x".repeat(201)), Err(RoomError::TooLong));
        assert_eq!(Room::try_new(&"é".repeat(101)), Err(RoomError::TooLong));
        for bad in ["a\nb", "a\0b", "a\u{7f}", "a\u{85}b"] {
            assert_eq!(Room::try_new(bad), Err(RoomError::Control), "{bad:?}");
        }
        for bad in [" a", "a ", "\u{a0}a", "a\u{2003}"] {
            assert_eq!(Room::try_new(bad), Err(RoomError::Space), "{bad:?}");
        }
    }
}
