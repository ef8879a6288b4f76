//! An issuer's public keys, as its JWKS document has them (RFC 7517).

use std::collections::HashMap;

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse, RSAKeyParameters},
};
use serde::Deserialize;
use serde_json::Value;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Keys of a document that are taken; issuers have a handful.
const MAX_KEYS: usize = 100;

/// Smallest RSA modulus, in bytes (RFC 7518, section 3.3).
const MIN_MODULUS_BYTES: usize = 2048 / 8;

/// The keys that tokens may name, by `kid`, each for the one algorithm of its kind.
#[derive(Debug, Clone, Default)]
pub struct IssuerKeys(HashMap<Box<str>, (Algorithm, DecodingKey)>);

/// Why a document has no keys for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("it is no JWKS document")]
    Malformed,
    #[error("it has no key for RS256, ES256 or EdDSA with a kid")]
    NoKeys,
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl IssuerKeys {
    /// Keys of other kinds or uses are passed over (RFC 7517, section 5). Of two with the same `kid` the first counts.
    pub fn parse(document: &[u8]) -> Result<Self, DocumentError> {
        let Document { keys } = serde_json::from_slice(document).map_err(|_| DocumentError::Malformed)?;
        if keys.len() > MAX_KEYS {
            return Err(DocumentError::TooMany);
        }
        let mut found = HashMap::new();
        for key in keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()) {
            if let (Some(usable), Some(kid)) = (usable(&key), key.common.key_id) {
                found.entry(kid.into()).or_insert(usable);
            }
        }
        if found.is_empty() { Err(DocumentError::NoKeys) } else { Ok(Self(found)) }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Algorithm, &DecodingKey)> {
        self.0.iter().map(|(kid, (algorithm, key))| (&**kid, *algorithm, key))
    }
}

/// The key and what it verifies, which its kind decides and not what a token or the document says.
fn usable(key: &Jwk) -> Option<(Algorithm, DecodingKey)> {
    let common = &key.common;
    let verifies = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let algorithm = match &key.algorithm {
        AlgorithmParameters::RSA(parameters) if is_large(parameters) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let agrees = common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm));
    (verifies && agrees).then(|| DecodingKey::from_jwk(key).ok()).flatten().map(|key| (algorithm, key))
}

fn is_large(RSAKeyParameters { n, .. }: &RSAKeyParameters) -> bool {
    URL_SAFE_NO_PAD.decode(n).is_ok_and(|modulus| modulus.len() >= MIN_MODULUS_BYTES)
}

#[cfg(test)]
pub(crate) mod tests;
