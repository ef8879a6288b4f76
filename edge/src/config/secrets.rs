//! What is read from the environment or from files, and never from a flag.

use service::{
    settings::Secret,
    watch::{self, Found, SecretFile},
};

use crate::keys;

/// What is never a flag, and the files it came from, which are watched.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    pub keys: keys::Secrets,
    pub(super) files: Vec<(Named, SecretFile)>,
}

/// Which secret a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Jwt,
    Grant,
    LinkToken,
}

impl Named {
    /// Puts the secret in its place.
    pub(crate) fn set(self, secret: &Secret, keys: &mut keys::Secrets) {
        match self {
            Self::Jwt => keys.jwt = keys::lines(secret),
            Self::Grant => keys.grant = keys::lines(secret),
            Self::LinkToken => keys.link_token = Some(secret.clone()),
        }
    }
}

impl Secrets {
    pub(super) fn from_environment() -> Result<Self, String> {
        let mut secrets = Self::default();
        let names = [("JWT_SECRET", Named::Jwt), ("GRANT_SECRET", Named::Grant), ("LINK_TOKEN", Named::LinkToken)];
        for (name, named) in names {
            let Some(Found { secret, file }) = watch::secret(name)? else { continue };
            named.set(&secret, &mut secrets.keys);
            secrets.files.extend(file.map(|file| (named, file)));
        }
        Ok(secrets)
    }
}
