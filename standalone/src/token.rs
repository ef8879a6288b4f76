//! Tokens for development, signed with the secret that this process's edge verifies with.

use anyhow::Context as _;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use service::{Clock, settings::Secret};

/// A token of this user, for all rooms, good for so many seconds.
pub(crate) fn sign(secret: &Secret, user: &str, life_s: i64) -> anyhow::Result<String> {
    let expires = Clock::system().unix_secs() + life_s;
    let claims = json!({"sub": user, "exp": expires, "rooms": ["*"]});
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    encode(&Header::default(), &claims, &key).context("sign a development token")
}
