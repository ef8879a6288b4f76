//! What is made of the secrets: the verifier of tokens, the keys of grants, and what links show. They change when a
//! secret's file does, or the keys of the `issuer` of tokens.

mod issuer;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use service::{Clock, settings::Secret};

use self::issuer::Questions;
pub use self::issuer::{Issuer, JwksUrl};
use crate::{
    auth::{Claims, IssuerKeys, TokenError, Verifier},
    authorize::Grants,
    outbound::ClientError,
};

/// The keys in force. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    secrets: Mutex<Secrets>,
    set: ArcSwap<KeySet>,
    link_token: ArcSwapOption<Secret>,
    /// None: tokens are signed with a secret.
    issuer: Option<Questions>,
}

#[derive(Debug)]
pub struct KeySet {
    pub verifier: Verifier,
    /// None: grants are off.
    pub grants: Option<Grants>,
}

/// What goes with the secrets.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub grant_ttl: Duration,
}

/// The secrets themselves.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Each verifies tokens.
    pub jwt: Vec<Secret>,
    /// Verify tokens in their place. No secrets, but they change like them.
    pub issuer: Option<IssuerKeys>,
    /// The first signs grants, each verifies them; if there are none, those of tokens do.
    pub grant: Vec<Secret>,
    pub link_token: Option<Secret>,
}

/// The secrets of a file or variable, one a line.
pub fn lines(secret: &Secret) -> Vec<Secret> {
    secret.expose().lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect()
}

impl Keys {
    /// Tokens are verified by secrets.
    pub fn new(settings: Settings, secrets: Secrets) -> Self {
        Self::with(settings, secrets, None)
    }

    /// Tokens are verified by keys that an issuer publishes; until [`Issuer::keep`] has fetched some, by none.
    pub fn of_issuer(url: JwksUrl, settings: Settings, secrets: Secrets) -> Result<(Self, Issuer), ClientError> {
        let (issuer, questions) = Issuer::new(url)?;
        let secrets = Secrets { jwt: Vec::new(), issuer: Some(IssuerKeys::default()), ..secrets };
        Ok((Self::with(settings, secrets, Some(questions)), issuer))
    }

    fn with(settings: Settings, secrets: Secrets, issuer: Option<Questions>) -> Self {
        let set = ArcSwap::from_pointee(KeySet::new(&settings, &secrets));
        let link_token = ArcSwapOption::new(secrets.link_token.clone().map(Arc::new));
        Self(Arc::new(Inner { settings, secrets: Mutex::new(secrets), set, link_token, issuer }))
    }

    pub fn now(&self) -> Arc<KeySet> {
        self.0.set.load_full()
    }

    /// What the token says, if it is good. Waits only where it names a key that the issuer may have made just now.
    pub async fn verify(&self, token: &str, clock: &Clock) -> Result<Claims, TokenError> {
        let verify = || self.now().verifier.verify(token, clock.unix_secs());
        let verified = verify();
        let (Err(TokenError::UnknownKey), Some(issuer)) = (&verified, &self.0.issuer) else { return verified };
        let asked = issuer.ask().await;
        match verify() {
            Err(TokenError::UnknownKey) if asked => Err(TokenError::Invalid("a kid that the issuer does not know")),
            // It may know it: it did not answer, or was asked just before.
            Err(TokenError::UnknownKey) => Err(TokenError::Unavailable),
            verified => verified,
        }
    }

    /// Whether there is anything to verify tokens with.
    pub fn are_there(&self) -> bool {
        let secrets = self.0.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.issuer.as_ref().is_none_or(|keys| !keys.is_empty())
    }

    fn issued(&self, found: IssuerKeys) {
        // There is always a verifier, so this cannot fail.
        let _ = self.change(|secrets| secrets.issuer = Some(found));
    }

    /// What proves the edge to fanout nodes: to be shown by links made from now on.
    pub fn link_token(&self) -> Option<Arc<Secret>> {
        self.0.link_token.load_full()
    }

    /// Replaces some of the secrets. `Err` says why not; the old ones then stay.
    pub fn change(&self, change: impl FnOnce(&mut Secrets)) -> Result<(), String> {
        let mut secrets = self.0.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = secrets.clone();
        change(&mut changed);
        if changed.jwt.is_empty() && changed.issuer.is_none() {
            return Err("it has no secret".to_owned());
        }
        self.0.set.store(Arc::new(KeySet::new(&self.0.settings, &changed)));
        self.0.link_token.store(changed.link_token.clone().map(Arc::new));
        *secrets = changed;
        Ok(())
    }
}

impl KeySet {
    fn new(settings: &Settings, secrets: &Secrets) -> Self {
        let Settings { issuer, audience, grant_ttl } = settings;
        let (issuer, audience) = (issuer.as_deref(), audience.as_deref());
        let verifier = match &secrets.issuer {
            Some(keys) => Verifier::issuer(keys, issuer, audience),
            None => Verifier::hs256(&secrets.jwt, issuer, audience),
        };
        let signing = if secrets.grant.is_empty() { &secrets.jwt } else { &secrets.grant };
        Self { verifier, grants: Grants::new(signing, *grant_ttl) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifies(keys: &Keys, secret: &str) -> bool {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        let claims = serde_json::json!({"sub": "7", "exp": 1000});
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        keys.now().verifier.verify(&token, 1).is_ok()
    }

    #[test]
    fn secrets_change_without_a_restart_and_never_to_none() {
        let jwt = lines(&Secret::new(" new \n\nold\n"));
        let keys = Keys::new(Settings::default(), Secrets { jwt, ..Secrets::default() });
        assert!(verifies(&keys, "new") && verifies(&keys, "old") && !verifies(&keys, "other"));
        assert!(keys.now().grants.is_none(), "a time to live of zero");
        keys.change(|secrets| secrets.jwt = vec![Secret::new("other")]).unwrap();
        assert!(verifies(&keys, "other") && !verifies(&keys, "old"));
        assert!(keys.change(|secrets| secrets.jwt.clear()).is_err());
        assert!(verifies(&keys, "other"));
        keys.change(|secrets| secrets.link_token = Some(Secret::new("t"))).unwrap();
        assert_eq!(keys.link_token().unwrap().expose(), "t");
    }
}
