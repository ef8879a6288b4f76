//! Who may join a room (`protocol.md`, section 4): the backend decides, or where there is none, the token's claims.
//! A user's own room is decided here, before either of them.
//!
//! A grant, once there are grants, comes before the backend and gets its own module.

mod backend;
mod claims;

use proto::Room;

pub use backend::{Backend, BackendConfig, BackendUrl, ClientError, Metrics};

use crate::auth::{Claims, UserId};

/// What comes of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allowed {
        publish: bool,
    },
    Denied,
    /// Nobody could say: worth asking again later.
    Unavailable,
}

/// Decides about joins. Which of the two is chosen by `BACKEND_URL`.
#[derive(Debug)]
pub enum Authorizer {
    Backend(Backend),
    Claims,
}

impl Authorizer {
    /// May this user join this room? A dropped future gives up its place in the queue for the backend.
    /// `token` is for backends that want to see it.
    pub async fn authorize(&self, room: &Room, claims: &Claims, token: &str) -> Decision {
        if let Some(owner) = UserId::of_room(room) {
            return own_room(owner, &claims.user);
        }
        match self {
            Self::Backend(backend) => backend.decide(room, &claims.user, token).await,
            Self::Claims => claims::decide(room, claims),
        }
    }
}

/// Joined by its user alone, whatever patterns, role or backend say; clients only listen there.
fn own_room(owner: &str, user: &UserId) -> Decision {
    if owner == user.as_str() { Decision::Allowed { publish: false } } else { Decision::Denied }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::RoomClaims;

    #[tokio::test]
    async fn a_users_room_is_joined_by_that_user_alone() {
        let star = RoomClaims::Only(["*".into(), "user:8".into()].into());
        for rooms in [RoomClaims::All, star] {
            let user = UserId::try_new("7").unwrap();
            let claims = Claims { user, expires: 0, rooms, auto_join: Box::default() };
            for (name, decision) in [
                ("user:7", Decision::Allowed { publish: false }),
                ("user:8", Decision::Denied),
                ("user:", Decision::Denied),
                ("user:77", Decision::Denied),
                ("order-42", Decision::Allowed { publish: true }),
            ] {
                let room = Room::try_new(name).unwrap();
                assert_eq!(Authorizer::Claims.authorize(&room, &claims, "").await, decision, "{name}");
            }
        }
    }
}
