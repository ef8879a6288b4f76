//! Tokens signed with a shared secret, or with a key of an issuer (`PROTOCOL.md`, section 5).
//!
//! The library checks form, family, signature, `iss` and `aud`; times are checked here, so that `now` can be passed in
//! and `exp` and `nbf` have each their own leeway.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Number, Value};
use service::settings::Secret;

use super::{Claims, IssuerKeys, RoomClaims, UserId};

/// How far the signer's clock may be ahead of ours, in seconds.
const NBF_LEEWAY_S: f64 = 10.0;

/// 31 December 9999: later expiries count as this, so that no sum with one overflows, nor a date made of it.
const LATEST_EXPIRY_S: f64 = 253_402_300_799.0;

/// Why a token is refused. The text is for the log; it never holds a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("invalid token: {0}")]
    Invalid(&'static str),
    #[error("expired token")]
    Expired,
    /// The issuer may have new keys.
    #[error("no key of that kid")]
    UnknownKey,
    #[error("the issuer's keys cannot be had")]
    Unavailable,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Verifier(Keyring);

/// What tokens may be signed with: secrets, which verify HMAC and nothing else, or an issuer's keys, each of which
/// verifies the one algorithm of its kind. Never both, so that no public key can be taken for a secret.
#[derive(Debug)]
enum Keyring {
    Secrets {
        keys: Box<[DecodingKey]>,
        rules: Validation,
    },
    /// By `kid`.
    Issuer(HashMap<Box<str>, (DecodingKey, Validation)>),
}

/// The algorithms of issuers' keys.
const ASYMMETRIC: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

impl Verifier {
    /// Each of `secrets` verifies, with HS256, HS384 or HS512. `issuer` and `audience`, when given, must be in the token.
    pub fn hs256(secrets: &[Secret], issuer: Option<&str>, audience: Option<&str>) -> Self {
        let keys = secrets.iter().map(|secret| DecodingKey::from_secret(secret.expose().as_bytes())).collect();
        let rules = rules(&[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512], issuer, audience);
        Self(Keyring::Secrets { keys, rules })
    }

    /// The key that the token names by its `kid` verifies it.
    pub fn issuer(keys: &IssuerKeys, issuer: Option<&str>, audience: Option<&str>) -> Self {
        let with_rules = |(kid, algorithm, key): (&str, Algorithm, &DecodingKey)| {
            (kid.into(), (key.clone(), rules(&[algorithm], issuer, audience)))
        };
        Self(Keyring::Issuer(keys.iter().map(with_rules).collect()))
    }

    pub fn verify(&self, token: &str, now_unix_s: i64) -> Result<Claims, TokenError> {
        let payload = self.decode(token)?;
        let expires = check_times(&payload, now_unix_s)?;
        let user = payload.user()?;
        Ok(Claims { user, expires, rooms: payload.rooms(), auto_join: strings(payload.auto_join.as_ref()) })
    }

    fn decode(&self, token: &str) -> Result<Payload, TokenError> {
        match &self.0 {
            Keyring::Secrets { keys, rules } => {
                let mut refusal = TokenError::Invalid(SIGNATURE);
                for key in keys {
                    match decode_with(token, key, rules) {
                        // Another secret may have signed it.
                        Err(TokenError::Invalid(SIGNATURE)) => {}
                        Err(error) => {
                            refusal = error;
                            break;
                        }
                        decoded => return decoded,
                    }
                }
                Err(refusal)
            }
            Keyring::Issuer(keys) => {
                let header = decode_header(token).map_err(|error| TokenError::Invalid(reason(error.kind())))?;
                // Before the keys are looked at: what no key could verify is no reason to ask the issuer.
                if !ASYMMETRIC.contains(&header.alg) {
                    return Err(TokenError::Invalid("algorithm"));
                }
                let kid = header.kid.ok_or(TokenError::Invalid("no kid"))?;
                let (key, rules) = keys.get(&*kid).ok_or(TokenError::UnknownKey)?;
                decode_with(token, key, rules)
            }
        }
    }
}

/// What the library checks: one of `algorithms`; `issuer` and `audience`, when given, in the token.
fn rules(algorithms: &[Algorithm], issuer: Option<&str>, audience: Option<&str>) -> Validation {
    // Times would be by the machine's clock, and with one leeway for both: ours are in `check_times`.
    let algorithms = algorithms.to_vec();
    let mut rules = Validation { algorithms, validate_exp: false, validate_nbf: false, ..Validation::default() };
    // Set but absent from the token would pass, if they were not required as well.
    let mut required = Vec::new();
    if let Some(issuer) = issuer {
        rules.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = audience {
        rules.set_audience(&[audience]);
        required.push("aud");
    }
    // Without an audience of ours, tokens that name one would be refused.
    rules.validate_aud = audience.is_some();
    rules.set_required_spec_claims(&required);
    rules
}

const SIGNATURE: &str = "signature";

fn decode_with(token: &str, key: &DecodingKey, rules: &Validation) -> Result<Payload, TokenError> {
    let data = decode::<Payload>(token, key, rules).map_err(|error| TokenError::Invalid(reason(error.kind())))?;
    // Whoever marks a header as critical wants tokens refused where it is not understood (RFC 7515, 4.1.11).
    if data.header.crit.is_some() {
        return Err(TokenError::Invalid("critical header"));
    }
    Ok(data.claims)
}

fn reason(error: &ErrorKind) -> &'static str {
    match error {
        ErrorKind::InvalidSignature => SIGNATURE,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "algorithm",
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => "no iss",
        ErrorKind::MissingRequiredClaim(_) => "no aud",
        ErrorKind::InvalidIssuer => "another iss",
        ErrorKind::InvalidAudience => "another aud",
        _ => "not a token of a known form",
    }
}

/// The claims that matter, as loosely typed as tokens in use are.
#[derive(Deserialize)]
struct Payload {
    exp: Option<Value>,
    nbf: Option<Value>,
    sub: Option<Value>,
    user_id: Option<Value>,
    id: Option<Value>,
    role: Option<Value>,
    rooms: Option<Value>,
    auto_join: Option<Value>,
}

impl Payload {
    /// `sub`; for tokens without it, as older ones are, `user_id`, or a numeric `id`.
    fn user(&self) -> Result<UserId, TokenError> {
        let id = match (&self.sub, &self.user_id, &self.id) {
            (Some(Value::String(sub)), ..) => sub.clone(),
            (Some(_), ..) => return Err(TokenError::Invalid("sub is not a string")),
            (None, Some(Value::String(id)), _) => id.clone(),
            (None, Some(Value::Number(id)), _) | (None, None, Some(Value::Number(id))) => {
                integer(id).ok_or(TokenError::Invalid("the user's number is not an integer"))?
            }
            (None, Some(_), _) => return Err(TokenError::Invalid("user_id is neither string nor number")),
            (None, None, _) => return Err(TokenError::Invalid("no sub")),
        };
        UserId::try_new(&id).map_err(|_| TokenError::Invalid("sub is no user's id"))
    }

    /// Other applications use these names too, so what is no list of strings claims nothing, but refuses nobody.
    fn rooms(&self) -> RoomClaims {
        match &self.role {
            Some(Value::String(role)) if role.eq_ignore_ascii_case("admin") => RoomClaims::All,
            _ => RoomClaims::Only(strings(self.rooms.as_ref())),
        }
    }
}

fn check_times(payload: &Payload, now_unix_s: i64) -> Result<i64, TokenError> {
    let exp = payload.exp.as_ref().ok_or(TokenError::Invalid("no exp"))?;
    let exp = exp.as_f64().ok_or(TokenError::Invalid("exp is not a number"))?;
    let nbf = payload.nbf.as_ref().map(|nbf| nbf.as_f64().ok_or(TokenError::Invalid("nbf is not a number")));
    let nbf = nbf.transpose()?.unwrap_or(f64::NEG_INFINITY);
    // Exact below 2^53, some 285 million years from now.
    #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
    let now = now_unix_s as f64;
    // A part of a second less is on the safe side.
    let exp = exp.floor().min(LATEST_EXPIRY_S);
    if now >= exp {
        return Err(TokenError::Expired);
    }
    if nbf > now + NBF_LEEWAY_S {
        return Err(TokenError::Invalid("not valid yet"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole, and between now and LATEST_EXPIRY_S")]
    Ok(exp as i64)
}

fn integer(number: &Number) -> Option<String> {
    number.as_i64().map(|n| n.to_string()).or_else(|| number.as_u64().map(|n| n.to_string()))
}

fn strings(value: Option<&Value>) -> Box<[Box<str>]> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(Into::into).collect()
}

#[cfg(test)]
mod tests;
