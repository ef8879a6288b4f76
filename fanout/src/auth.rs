//! Who may use the two listeners. Secrets are compared in constant time, and every configured one is looked at.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use http::{HeaderValue, Request, header};
use service::{accept::Speaker, settings::Secret};
use subtle::ConstantTimeEq as _;

use crate::broker::share::Share;

/// The name of publishers while no key is configured, and so only loopback is served.
const LOCAL: &str = "@local";

/// What a call of the publish API is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Read,
    Publish,
}

/// Who calls the publish API.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As it appears in `from`: `@name`.
    pub name: Arc<str>,
    /// Of the queue to the store; all keys of a name have one. `None`: all of it, where there are no keys.
    pub(crate) share: Option<Arc<Share>>,
    /// False for a `:read` key.
    may_publish: bool,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no API key: send `authorization: Bearer <key>`")]
    Missing,
    #[error("no valid API key: send `authorization: Bearer <key>`")]
    Unknown,
    #[error("this key may only read")]
    ReadOnly,
}

/// The keys of the publish API. Empty: everybody is `@local`. Cloning shares them.
#[derive(Clone, Default)]
pub struct ApiKeys(Arc<RwLock<Vec<(Caller, Secret)>>>);

impl ApiKeys {
    /// Reads `name:secret` or `name:secret:read`, comma-separated. The error never holds a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(Arc::new(RwLock::new(parse_keys(text, &[])?))))
    }

    /// Puts those of the text in force instead.
    pub(crate) fn replace(&self, text: &str) -> Result<(), String> {
        let keys = parse_keys(text, &read(&self.0))?;
        *write(&self.0) = keys;
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        read(&self.0).is_empty()
    }

    /// Judges a call by the head of its request, before anything else of it is looked at: the one place that does. A
    /// connection that has shown a key keeps its place.
    pub fn admit<B>(&self, request: &Request<B>, right: Right) -> Result<Caller, Refused> {
        let caller = self.caller(request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes))?;
        if let Some(speaker) = request.extensions().get::<Speaker>() {
            speaker.spoke();
        }
        if right == Right::Publish && !caller.may_publish { Err(Refused::ReadOnly) } else { Ok(caller) }
    }

    fn caller(&self, authorization: Option<&[u8]>) -> Result<Caller, Refused> {
        let keys = read(&self.0);
        if keys.is_empty() {
            return Ok(Caller { name: LOCAL.into(), share: None, may_publish: true });
        }
        let given = bearer(authorization.ok_or(Refused::Missing)?).ok_or(Refused::Unknown)?;
        let mut found = None;
        for (caller, secret) in keys.iter() {
            if bool::from(secret.expose().as_bytes().ct_eq(given)) {
                found = Some(caller);
            }
        }
        found.cloned().ok_or(Refused::Unknown)
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(read(&self.0).iter().map(|(caller, _)| &caller.name)).finish()
    }
}

/// At least one: else a slip would let everybody in. A name that was there keeps what it has in the queue.
fn parse_keys(text: &str, known: &[(Caller, Secret)]) -> Result<Vec<(Caller, Secret)>, String> {
    let mut keys: Vec<(Caller, Secret)> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (mut caller, secret) = parse_key(entry)?;
        if let Some((same, _)) = keys.iter().chain(known).find(|(same, _)| same.name == caller.name) {
            caller.share.clone_from(&same.share);
        }
        keys.push((caller, secret));
    }
    if keys.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(keys) }
}

fn parse_key(entry: &str) -> Result<(Caller, Secret), String> {
    let mut parts = entry.split(':');
    let (Some(name), Some(secret), right, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("an entry looks like name:secret or name:secret:read".to_owned());
    };
    if name.is_empty() || name.len() > 64 || name.starts_with('@') || name.chars().any(char::is_control) {
        return Err("a key's name has 1 to 64 bytes and does not begin with @".to_owned());
    }
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)) {
        return Err(format!("the secret of {name} must be of A-Z a-z 0-9 - _ . ~"));
    }
    let may_publish = match right {
        None => true,
        Some("read") => false,
        Some(_) => return Err(format!("the right of {name} can only be `read`")),
    };
    let caller = Caller { name: format!("@{name}").into(), share: Some(Arc::default()), may_publish };
    Ok((caller, Secret::new(secret)))
}

/// What edges must show. Without a token every link is taken: only loopback is served then. Cloning shares it.
#[derive(Debug, Clone)]
pub struct LinkToken(Arc<RwLock<Option<Secret>>>);

impl LinkToken {
    pub fn new(token: Option<Secret>) -> Self {
        Self(Arc::new(RwLock::new(token)))
    }

    /// Puts another in force. Links that are open stay.
    pub(crate) fn replace(&self, token: &Secret) {
        *write(&self.0) = Some(token.clone());
    }

    /// Judges the value of an `authorization` header.
    pub fn allows(&self, authorization: Option<&[u8]>) -> bool {
        read(&self.0).as_ref().is_none_or(|token| {
            authorization.and_then(bearer).is_some_and(|given| token.expose().as_bytes().ct_eq(given).into())
        })
    }
}

/// A value is replaced whole, so it is sound whatever happened to who held the lock.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(authorization: &str) -> Request<()> {
        Request::builder().header(header::AUTHORIZATION, authorization).body(()).unwrap()
    }

    #[test]
    fn keys_are_parsed_and_compared() {
        let keys = ApiKeys::parse("shop:s3cret, audit:look~:read,shop:next-1").unwrap();
        let ask = |text: &str, right| keys.admit(&request(text), right).map(|caller| caller.name.to_string());
        assert_eq!(ask("Bearer s3cret", Right::Publish).unwrap(), "@shop");
        assert_eq!(ask("bearer next-1", Right::Read).unwrap(), "@shop");
        assert_eq!(ask("Bearer look~", Right::Read).unwrap(), "@audit");
        assert_eq!(ask("Bearer look~", Right::Publish), Err(Refused::ReadOnly));
        for bad in ["Bearer s3cre", "Bearer s3crett", "Basic s3cret", "Bearer ", "", "Bearer look~:read"] {
            assert_eq!(ask(bad, Right::Read), Err(Refused::Unknown), "{bad}");
        }
        assert_eq!(keys.admit(&Request::new(()), Right::Read).unwrap_err(), Refused::Missing);
        assert!(!format!("{keys:?}").contains("s3cret"));
    }

    #[test]
    fn without_keys_everybody_is_local() {
        assert_eq!(&*ApiKeys::default().admit(&Request::new(()), Right::Publish).unwrap().name, "@local");
    }

    #[test]
    fn bad_keys_are_refused_without_showing_the_secret() {
        for bad in [",", "shop", "shop:", ":x", "shop:a b", "shop:hidden:write", "@shop:x", "a:b:c:d"] {
            let error = ApiKeys::parse(bad).unwrap_err();
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn keys_are_replaced_whole_or_not_at_all() {
        let keys = ApiKeys::parse("shop:old").unwrap();
        let shared = keys.clone();
        for bad in [",", "shop", "shop:new,x"] {
            shared.replace(bad).unwrap_err();
            assert!(keys.admit(&request("Bearer old"), Right::Read).is_ok(), "{bad}");
        }
        shared.replace("shop:new").unwrap();
        assert!(keys.admit(&request("Bearer new"), Right::Read).is_ok());
        assert_eq!(keys.admit(&request("Bearer old"), Right::Read).unwrap_err(), Refused::Unknown);
    }

    #[test]
    fn a_name_has_one_share_whatever_its_secrets() {
        let keys = ApiKeys::parse("shop:one,mail:two,shop:three").unwrap();
        let share = |key: &str| keys.admit(&request(&format!("Bearer {key}")), Right::Publish).unwrap().share.unwrap();
        let before = share("one");
        assert!(Arc::ptr_eq(&before, &share("three")) && !Arc::ptr_eq(&before, &share("two")));
        keys.replace("shop:four").unwrap();
        assert!(Arc::ptr_eq(&before, &share("four")));
    }

    #[test]
    fn a_link_shows_its_token() {
        let token = LinkToken::new(Some(Secret::new("t0ken")));
        assert!(token.allows(Some(b"Bearer t0ken")));
        assert!(!token.allows(Some(b"Bearer other")));
        assert!(!token.allows(None));
        token.clone().replace(&Secret::new("other"));
        assert!(token.allows(Some(b"Bearer other")));
        assert!(LinkToken::new(None).allows(None));
    }
}
