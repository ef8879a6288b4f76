//! Tokens signed with a shared secret (`PROTOCOL.md`, section 5).
//!
//! The library checks form, family, signature, `iss` and `aud`; times are checked here, so that `now` can be passed in
//! and `exp` and `nbf` have each their own leeway.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Number, Value};
use service::settings::Secret;

use super::{Claims, RoomClaims, UserId};

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
}

/// Checks tokens against one or more secrets.
#[derive(Debug)]
pub struct Verifier {
    keys: Box<[DecodingKey]>,
    validation: Validation,
}

impl Verifier {
    /// Each of `secrets` verifies, with HS256, HS384 or HS512. `issuer` and `audience`, when given, must be in the token.
    pub fn hs256(secrets: &[Secret], issuer: Option<&str>, audience: Option<&str>) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // By the machine's clock, and with one leeway for both: ours are in `check_times`.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        // Set but absent from the token would pass, if they were not required as well.
        let mut required = Vec::new();
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        // Without an audience of ours, tokens that name one would be refused.
        validation.validate_aud = audience.is_some();
        validation.set_required_spec_claims(&required);
        let keys = secrets.iter().map(|secret| DecodingKey::from_secret(secret.expose().as_bytes())).collect();
        Self { keys, validation }
    }

    pub fn verify(&self, token: &str, now_unix_s: i64) -> Result<Claims, TokenError> {
        let payload = self.decode(token)?;
        let expires = check_times(&payload, now_unix_s)?;
        let user = payload.user()?;
        Ok(Claims { user, expires, rooms: payload.rooms(), auto_join: strings(payload.auto_join.as_ref()) })
    }

    fn decode(&self, token: &str) -> Result<Payload, TokenError> {
        let mut refusal = "signature";
        for key in &self.keys {
            match decode::<Payload>(token, key, &self.validation) {
                // Whoever marks a header as critical wants tokens refused where it is not understood (RFC 7515, 4.1.11).
                Ok(data) if data.header.crit.is_some() => return Err(TokenError::Invalid("critical header")),
                Ok(data) => return Ok(data.claims),
                // Another secret may have signed it.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => {
                    refusal = reason(error.kind());
                    break;
                }
            }
        }
        Err(TokenError::Invalid(refusal))
    }
}

fn reason(error: &ErrorKind) -> &'static str {
    match error {
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
