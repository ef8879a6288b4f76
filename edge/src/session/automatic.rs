use proto::Room;

use crate::{
    auth::{Claims, UserId},
    protocol::ErrorCode,
};

/// A room joined for the client when it connects (`PROTOCOL.md`, section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutomaticRoom {
    pub room: Room,
    pub publish: bool,
}

/// What a token says should be joined for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutomaticRooms {
    pub rooms: Vec<AutomaticRoom>,
    /// Names that are none, or another user's own room.
    pub refused: Vec<(Box<str>, ErrorCode)>,
}

impl AutomaticRooms {
    /// The user's own room, and those that the token names, each once.
    pub fn of(claims: &Claims) -> Self {
        let own = AutomaticRoom { room: claims.user.room(), publish: false };
        let mut all = Self { rooms: vec![own], refused: Vec::new() };
        for name in &claims.auto_join {
            match Room::try_new(name) {
                Err(_) => all.refused.push((name.clone(), ErrorCode::BadRoom)),
                Ok(room) if all.rooms.iter().any(|other| other.room == room) => {}
                Ok(room) if UserId::of_room(&room).is_some() => {
                    all.refused.push((name.clone(), ErrorCode::NotAuthorized));
                }
                Ok(room) => all.rooms.push(AutomaticRoom { room, publish: true }),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::RoomClaims;

    #[test]
    fn the_own_room_comes_first_and_other_users_rooms_never() {
        let names = ["news", "user:8", "", "news", "user:7"];
        let claims = Claims {
            user: UserId::try_new("7").unwrap(),
            expires: 0,
            rooms: RoomClaims::All,
            auto_join: names.map(Into::into).into(),
        };
        let AutomaticRooms { rooms, refused } = AutomaticRooms::of(&claims);
        let rooms: Vec<_> = rooms.iter().map(|automatic| (automatic.room.as_str(), automatic.publish)).collect();
        assert_eq!(rooms, [("user:7", false), ("news", true)]);
        assert_eq!(refused, [("user:8".into(), ErrorCode::NotAuthorized), ("".into(), ErrorCode::BadRoom)]);
    }
}
