use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use service::Clock;

use super::{SECRET, SigningKey};

/// A token in the making: valid for an hour, and for all rooms, unless told otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Token(Value);

impl Token {
    pub(crate) fn of(user: &str) -> Self {
        Self(json!({"sub": user, "exp": now_s() + 3600, "rooms": ["*"]}))
    }

    pub(crate) fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        self.0[claim] = value.into();
        self
    }

    pub(crate) fn without(mut self, claim: &str) -> Self {
        self.0.as_object_mut().unwrap().remove(claim);
        self
    }

    pub(crate) fn sign(&self) -> String {
        self.sign_with(Algorithm::HS256, SECRET)
    }

    pub(crate) fn sign_by(&self, key: &SigningKey) -> String {
        let header = Header { kid: Some(key.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, &self.0, &key.private).unwrap()
    }

    pub(crate) fn sign_with(&self, algorithm: Algorithm, secret: &str) -> String {
        encode(&Header::new(algorithm), &self.0, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }
}

pub(crate) fn now_s() -> i64 {
    Clock::system().unix_secs()
}
