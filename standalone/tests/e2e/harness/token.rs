use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use service::Clock;

use super::SECRET;

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

    pub(crate) fn sign(&self) -> String {
        encode(&Header::default(), &self.0, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }
}

pub(crate) fn now_s() -> i64 {
    Clock::system().unix_secs()
}
