use proto::Room;

use super::Decision;
use crate::auth::Claims;

/// The token decides. Who may join by it may also publish.
pub(super) fn decide(room: &Room, claims: &Claims) -> Decision {
    if claims.rooms.cover(room) { Decision::Allowed { publish: true } } else { Decision::Denied }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{RoomClaims, UserId};

    #[test]
    fn no_claim_no_entry() {
        let mut claims = Claims {
            user: UserId::try_new("7").unwrap(),
            expires: 0,
            rooms: RoomClaims::Only(Box::default()),
            auto_join: Box::default(),
        };
        let room = Room::try_new("order-42").unwrap();
        assert_eq!(decide(&room, &claims), Decision::Denied);
        claims.rooms = RoomClaims::Only(["order-*".into()].into());
        assert_eq!(decide(&room, &claims), Decision::Allowed { publish: true });
        claims.rooms = RoomClaims::All;
        assert_eq!(decide(&room, &claims), Decision::Allowed { publish: true });
    }
}
