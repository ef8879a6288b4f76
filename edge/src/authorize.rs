//! Who may join a room (`PROTOCOL.md`, section 4): a grant that says so; else the backend, or where there is none, the
//! token's claims. A user's own room is decided here, before any of them.

mod backend;
mod claims;
mod grant;

use proto::Room;

pub use backend::{Backend, BackendConfig, BackendUrl, JoinRoutes, Metrics};
use grant::Granted;
pub use grant::Grants;

use crate::{
    auth::{Claims, UserId},
    removals::Removed,
};

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

/// The decision, and if it is a yes, the same in writing, unless grants are off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub decision: Decision,
    pub grant: Option<Box<str>>,
}

/// Who is asked. Which of the two is chosen by `BACKEND_URL`.
#[derive(Debug)]
pub enum Authorizer {
    Backend(Backend),
    Claims,
}

/// A client that wants to join.
#[derive(Debug, Clone, Copy)]
pub struct Applicant<'a> {
    pub claims: &'a Claims,
    /// For backends that want to see it.
    pub token: &'a str,
    /// What it was given when it joined before.
    pub grant: Option<&'a str>,
    /// When a backend last removed it from the room: what was given, or answered, before is void.
    pub removed: Removed,
}

impl Authorizer {
    /// May this client join this room? A dropped future gives up its place in the queue for the backend.
    pub async fn admit(
        &self,
        room: &Room,
        applicant: Applicant<'_>,
        grants: Option<&Grants>,
        now_ms: impl Fn() -> i64,
    ) -> Admission {
        let Applicant { claims, token, grant, removed } = applicant;
        let user = &claims.user;
        if let Some(owner) = UserId::of_room(room) {
            return Admission { decision: own_room(owner, user), grant: None };
        }
        let shown = grants.zip(grant).and_then(|(grants, grant)| grants.read(grant, room, user, now_ms()));
        if let Some(granted) = shown.filter(|granted| !removed.is_after(granted.given_ms)) {
            return Admission::granted(granted, room, user, grants);
        }
        let asked_ms = now_ms();
        let decision = match self {
            Self::Backend(backend) => backend.decide(room, user, token, removed.number).await,
            Self::Claims => claims::decide(room, claims),
        };
        match (decision, grants) {
            (Decision::Allowed { publish }, Some(grants)) => {
                Admission::granted(grants.fresh(publish, asked_ms), room, user, Some(grants))
            }
            (decision, _) => Admission { decision, grant: None },
        }
    }

    /// Whether somebody wants to see clients' tokens.
    pub fn shows_tokens(&self) -> bool {
        matches!(self, Self::Backend(backend) if backend.shows_tokens())
    }

    /// Whether a token alone decides, so that a newer one may end memberships.
    pub fn is_by_claims(&self) -> bool {
        matches!(self, Self::Claims)
    }
}

impl Admission {
    fn granted(granted: Granted, room: &Room, user: &UserId, grants: Option<&Grants>) -> Self {
        let grant = grants.and_then(|grants| grants.write(granted, room, user));
        Self { decision: Decision::Allowed { publish: granted.publish }, grant }
    }
}

/// Joined by its user alone, whatever patterns, role or backend say; clients only listen there.
fn own_room(owner: &str, user: &UserId) -> Decision {
    if owner == user.as_str() { Decision::Allowed { publish: false } } else { Decision::Denied }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use service::settings::Secret;

    use super::*;
    use crate::{auth::RoomClaims, connections::Connections, removals::Removals};

    fn room(name: &str) -> Room {
        Room::try_new(name).unwrap()
    }

    fn claims(user: &str, rooms: RoomClaims) -> Claims {
        Claims { user: UserId::try_new(user).unwrap(), expires: 0, rooms, auto_join: Box::default() }
    }

    async fn admit(name: &str, claims: &Claims, grants: Option<(&Grants, Option<&str>, i64)>) -> Admission {
        let grant = grants.and_then(|(_, grant, _)| grant);
        let applicant = Applicant { claims, token: "", grant, removed: Removed::default() };
        let now = grants.map_or(0, |(_, _, now)| now);
        Authorizer::Claims.admit(&room(name), applicant, grants.map(|(grants, ..)| grants), || now).await
    }

    #[tokio::test]
    async fn a_users_room_is_joined_by_that_user_alone() {
        let star = RoomClaims::Only(["*".into(), "user:8".into()].into());
        for rooms in [RoomClaims::All, star] {
            let claims = claims("7", rooms);
            for (name, decision) in [
                ("user:7", Decision::Allowed { publish: false }),
                ("user:8", Decision::Denied),
                ("user:", Decision::Denied),
                ("user:77", Decision::Denied),
                ("order-42", Decision::Allowed { publish: true }),
            ] {
                assert_eq!(admit(name, &claims, None).await, Admission { decision, grant: None }, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn a_grant_stands_for_the_answer_and_keeps_its_expiry() {
        let grants = Grants::new(&[Secret::new("s")], Duration::from_secs(100)).unwrap();
        let (may, may_not) = (claims("7", RoomClaims::All), claims("7", RoomClaims::Only(Box::default())));
        let given = admit("r", &may, Some((&grants, None, 1000))).await.grant.unwrap();
        let again = admit("r", &may_not, Some((&grants, Some(&given), 50_000))).await;
        assert_eq!(again.decision, Decision::Allowed { publish: true });
        let second = again.grant.unwrap();
        let end = 1000 + 100_000;
        assert_eq!(admit("r", &may_not, Some((&grants, Some(&second), end - 1))).await.decision, again.decision);
        let denied = Admission { decision: Decision::Denied, grant: None };
        for (name, grant, now) in [("r", &second, end), ("other", &given, 1001), ("r", &"v1.x".into(), 1001)] {
            assert_eq!(admit(name, &may_not, Some((&grants, Some(grant), now))).await, denied, "{name}");
        }
        let other = claims("8", RoomClaims::Only(Box::default()));
        assert_eq!(admit("r", &other, Some((&grants, Some(&given), 1001))).await, denied);
    }

    #[tokio::test]
    async fn a_grant_from_before_a_removal_is_void() {
        let grants = Grants::new(&[Secret::new("s")], Duration::from_secs(100)).unwrap();
        let nowhere = claims("7", RoomClaims::Only(Box::default()));
        let metrics = Arc::<crate::metrics::Metrics>::default();
        let removals = Removals::new(Connections::new(9, 9, metrics.clone()), metrics);
        let shown = async |given: i64, room: &Room| {
            let grant = grants.write(grants.fresh(true, given), room, &nowhere.user).unwrap();
            let removed = removals.last(&nowhere.user, room);
            let applicant = Applicant { claims: &nowhere, token: "", grant: Some(&grant), removed };
            Authorizer::Claims.admit(room, applicant, Some(&grants), || 60_000).await.decision
        };
        let (r, other) = (room("r"), room("other"));
        assert_eq!(shown(40_000, &r).await, Decision::Allowed { publish: true });
        removals.learn(&nowhere.user, Some(&r), 45_000);
        assert_eq!(shown(40_000, &r).await, Decision::Denied);
        assert_eq!(shown(40_000, &other).await, Decision::Allowed { publish: true });
        assert_eq!(shown(55_000, &r).await, Decision::Allowed { publish: true }, "given after it");
        removals.learn(&nowhere.user, None, 46_000);
        assert_eq!(shown(40_000, &other).await, Decision::Denied);
    }

    #[tokio::test]
    async fn nobody_gets_into_anothers_own_room_by_a_grant() {
        let grants = Grants::new(&[Secret::new("s")], Duration::from_secs(100)).unwrap();
        let claims = claims("7", RoomClaims::All);
        let forged = grants.write(grants.fresh(true, 0), &room("user:8"), &claims.user).unwrap();
        assert_eq!(admit("user:8", &claims, Some((&grants, Some(&forged), 1))).await.decision, Decision::Denied);
    }
}
