//! Grants (`PROTOCOL.md`, section 4): a *yes* in writing, so that a client that comes back, to any edge, need not be asked
//! about again.
//!
//! `v1.` and, in base64url: the right to publish (1 byte), Unix times in milliseconds when it ends and when the yes was
//! given (8 bytes each, big-endian), HMAC-SHA-256 over these, the room and the user (32 bytes). Room and user are known to
//! whoever shows it, so they are not in it.

use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::Room;
use service::settings::Secret;

use crate::auth::UserId;

const VERSION: &str = "v1.";

/// Separates this use of a secret from all others (RFC 5869, section 3.2).
const LABEL: &[u8] = b"espigon grant v1";

const MAC_BYTES: usize = 32;
const CLAIM_BYTES: usize = 17;

/// Gives grants, and checks them.
#[derive(Debug)]
pub struct Grants {
    /// The first signs, all verify.
    keys: Box<[hmac::Key]>,
    ttl_ms: i64,
}

/// What a valid grant says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) publish: bool,
    /// Unix times in milliseconds.
    pub(super) expires_ms: i64,
    pub(super) given_ms: i64,
}

impl Grants {
    /// With keys derived from the secrets. None without a secret, or if grants are turned off by a `ttl` of zero.
    pub fn new(secrets: &[Secret], ttl: Duration) -> Option<Self> {
        let keys: Box<[_]> = secrets.iter().filter_map(derive).collect();
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        (!keys.is_empty() && ttl_ms > 0).then_some(Self { keys, ttl_ms })
    }

    /// What a fresh yes is good for.
    pub(super) fn fresh(&self, publish: bool, now_ms: i64) -> Granted {
        Granted { publish, expires_ms: now_ms.saturating_add(self.ttl_ms), given_ms: now_ms }
    }

    pub(super) fn write(&self, granted: Granted, room: &Room, user: &UserId) -> Option<Box<str>> {
        let mut bytes = claim(granted).to_vec();
        let tag = hmac::sign(self.keys.first()?, &signed(&bytes, room, user));
        bytes.extend_from_slice(tag.as_ref());
        Some(format!("{VERSION}{}", URL_SAFE_NO_PAD.encode(bytes)).into())
    }

    /// What the grant says, if it is one of ours, of this user for this room, and has not ended.
    pub(super) fn read(&self, grant: &str, room: &Room, user: &UserId, now_ms: i64) -> Option<Granted> {
        let bytes = URL_SAFE_NO_PAD.decode(grant.strip_prefix(VERSION)?).ok()?;
        if bytes.len() != CLAIM_BYTES + MAC_BYTES {
            return None;
        }
        let (claimed, tag) = bytes.split_at(CLAIM_BYTES);
        let signed = signed(claimed, room, user);
        self.keys.iter().find(|key| hmac::verify(key, &signed, tag).is_ok())?;
        let number = |at: usize| Some(i64::from_be_bytes(claimed.get(at..at + 8)?.try_into().ok()?));
        let granted = Granted { publish: claimed[0] == 1, expires_ms: number(1)?, given_ms: number(9)? };
        (granted.expires_ms > now_ms).then_some(granted)
    }
}

fn derive(secret: &Secret) -> Option<hmac::Key> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret.expose().as_bytes());
    let mut key = [0; MAC_BYTES];
    prk.expand(&[LABEL], hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

fn claim(granted: Granted) -> [u8; CLAIM_BYTES] {
    let mut bytes = [0; CLAIM_BYTES];
    bytes[0] = granted.publish.into();
    bytes[1..9].copy_from_slice(&granted.expires_ms.to_be_bytes());
    bytes[9..].copy_from_slice(&granted.given_ms.to_be_bytes());
    bytes
}

/// The room's length stands between room and user, so that no two pairs are signed alike.
fn signed(claimed: &[u8], room: &Room, user: &UserId) -> Vec<u8> {
    let length = (room.len() as u64).to_be_bytes();
    [claimed, &length, room.as_bytes(), user.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_mins(30);

    fn grants(secrets: &[&str]) -> Grants {
        let secrets: Vec<_> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        Grants::new(&secrets, TTL).unwrap()
    }

    fn room(name: &str) -> Room {
        Room::try_new(name).unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::try_new(id).unwrap()
    }

    #[test]
    fn a_grant_is_good_for_its_room_its_user_and_its_time() {
        let grants = grants(&["secret"]);
        for publish in [true, false] {
            let granted = grants.fresh(publish, 1000);
            assert_eq!(granted.expires_ms, 1000 + 1_800_000);
            let grant = grants.write(granted, &room("ab"), &user("c")).unwrap();
            assert!(grant.starts_with("v1.") && grant.len() < 80, "{grant}");
            let read = |name, id, now| grants.read(&grant, &room(name), &user(id), now);
            assert_eq!(read("ab", "c", 2000), Some(granted));
            assert_eq!(read("ab", "c", granted.expires_ms), None);
            assert_eq!(read("a", "bc", 2000), None);
            assert_eq!(read("ab", "d", 2000), None);
        }
    }

    /// Clients read them (`PROTOCOL.md`, section 4).
    #[test]
    fn its_times_stand_where_the_contract_says() {
        let granted = Granted { publish: true, expires_ms: 1_795_481_800_000, given_ms: 1_795_480_000_000 };
        let grant = grants(&["secret"]).write(granted, &room("r"), &user("7")).unwrap();
        assert!(grant.starts_with("v1.AQAAAaILDg1AAAABogrylg"), "{grant}");
    }

    #[test]
    fn what_is_forged_or_broken_is_none() {
        let grants = grants(&["secret"]);
        let grant = grants.write(grants.fresh(false, 1000), &room("r"), &user("7")).unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(&grant[3..]).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let forged = format!("v1.{}", URL_SAFE_NO_PAD.encode(&bytes));
            assert_eq!(grants.read(&forged, &room("r"), &user("7"), 2000), None, "byte {at}");
            bytes[at] ^= 1;
        }
        for broken in ["", "v1.", "v2.abc", "v1.!", &grant[..grant.len() - 4]] {
            assert_eq!(grants.read(broken, &room("r"), &user("7"), 2000), None, "{broken}");
        }
    }

    #[test]
    fn secrets_can_be_changed_and_other_uses_of_them_give_other_keys() {
        let (old, both, new) = (grants(&["old"]), grants(&["new", "old"]), grants(&["new"]));
        let grant = old.write(old.fresh(true, 0), &room("r"), &user("7")).unwrap();
        assert!(both.read(&grant, &room("r"), &user("7"), 1).is_some());
        assert!(new.read(&grant, &room("r"), &user("7"), 1).is_none());
        let grant = both.write(both.fresh(true, 0), &room("r"), &user("7")).unwrap();
        assert!(new.read(&grant, &room("r"), &user("7"), 1).is_some());
        assert!(Grants::new(&[], TTL).is_none());
        assert!(Grants::new(&[Secret::new("x")], Duration::ZERO).is_none());
    }
}
