use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const NOW: i64 = 1_795_480_000;
const SECRET: &str = "a secret of the tests, thirty-two bytes or more";

fn sign(claims: &Value) -> String {
    sign_with(Algorithm::HS256, SECRET, claims)
}

fn sign_with(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn verifier() -> Verifier {
    Verifier::hs256(&[Secret::new(SECRET)], None, None)
}

fn verify(claims: &Value) -> Result<Claims, TokenError> {
    verifier().verify(&sign(claims), NOW)
}

fn user(mut claims: Value) -> Result<String, TokenError> {
    claims["exp"] = json!(NOW + 60);
    verify(&claims).map(|claims| claims.user.to_string())
}

fn invalid<T>(reason: &'static str) -> Result<T, TokenError> {
    Err(TokenError::Invalid(reason))
}

#[test]
fn the_hmac_algorithms_are_taken() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = sign_with(algorithm, SECRET, &json!({"sub": "7", "exp": NOW + 60}));
        let claims = verifier().verify(&token, NOW).unwrap();
        assert_eq!((&*claims.user, claims.expires), ("7", NOW + 60));
    }
}

#[test]
fn none_and_other_families_are_refused() {
    let signed = sign(&json!({"sub": "7", "exp": NOW + 60}));
    let mut parts = signed.split('.');
    let (_, payload, signature) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
    for algorithm in ["none", "None", "NONE", "RS256", "ES256", "EdDSA", "HS1", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"typ": "JWT", "alg": algorithm}).to_string());
        for signature in [signature, ""] {
            let token = format!("{header}.{payload}.{signature}");
            assert!(matches!(verifier().verify(&token, NOW), Err(TokenError::Invalid(_))), "{algorithm}");
        }
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"RS256"}"#);
    assert_eq!(verifier().verify(&format!("{header}.{payload}.{signature}"), NOW), invalid("algorithm"));
}

#[test]
fn what_is_no_token_is_refused() {
    let good = sign(&json!({"sub": "7", "exp": NOW + 60}));
    for bad in ["", ".", "..", "a.b.c", "é.é.é", &good[1..], &good[..good.len() - 1], &format!("{good}.x")] {
        assert!(matches!(verifier().verify(bad, NOW), Err(TokenError::Invalid(_))), "{bad}");
    }
    for claims in [json!([]), json!("7"), json!(null)] {
        assert_eq!(verify(&claims).map(|_| ()), invalid("not a token of a known form"));
    }
}

#[test]
fn each_secret_verifies_and_no_other() {
    let old = "the secret before this one, thirty-two bytes";
    let both = Verifier::hs256(&[Secret::new(SECRET), Secret::new(old)], None, None);
    let claims = json!({"sub": "7", "exp": NOW + 60});
    for secret in [SECRET, old] {
        assert!(both.verify(&sign_with(Algorithm::HS256, secret, &claims), NOW).is_ok());
    }
    let token = sign_with(Algorithm::HS256, "another secret altogether, thirty-two bytes", &claims);
    assert_eq!(both.verify(&token, NOW), invalid("signature"));
    // The signature comes first: a forged token's times say nothing.
    let token = sign_with(Algorithm::HS256, "another secret", &json!({"sub": "7", "exp": 1}));
    assert_eq!(both.verify(&token, NOW), invalid("signature"));
}

#[test]
fn critical_headers_are_refused() {
    let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&header, &json!({"sub": "7", "exp": NOW + 60}), &key).unwrap();
    assert_eq!(verifier().verify(&token, NOW), invalid("critical header"));
}

#[test]
fn expiry_has_no_leeway() {
    let at = |exp: Value| verify(&json!({"sub": "7", "exp": exp})).map(|claims| claims.expires);
    assert_eq!(at(json!(NOW + 1)), Ok(NOW + 1));
    assert_eq!(at(json!(NOW)), Err(TokenError::Expired));
    assert_eq!(at(json!(NOW - 1)), Err(TokenError::Expired));
    assert_eq!(at(json!(-1)), Err(TokenError::Expired));
    assert_eq!(at(json!(1_795_480_001.75)), Ok(NOW + 1));
    assert_eq!(at(json!(1_795_480_000.75)), Err(TokenError::Expired));
    assert_eq!(at(json!(1e300)), Ok(253_402_300_799));
    assert_eq!(at(json!(u64::MAX)), Ok(253_402_300_799));
    assert_eq!(at(json!("1999999999")), invalid("exp is not a number"));
    assert_eq!(at(json!(null)), invalid("no exp"));
    assert_eq!(verify(&json!({"sub": "7"})).map(|_| ()), invalid("no exp"));
}

#[test]
fn not_before_has_ten_seconds() {
    let at = |nbf: Value| verify(&json!({"sub": "7", "exp": NOW + 60, "nbf": nbf})).map(|_| ());
    assert_eq!(at(json!(NOW + 10)), Ok(()));
    assert_eq!(at(json!(NOW + 11)), invalid("not valid yet"));
    assert_eq!(at(json!(NOW - 1000)), Ok(()));
    assert_eq!(at(json!(null)), Ok(()));
    assert_eq!(at(json!("soon")), invalid("nbf is not a number"));
}

#[test]
fn older_names_stand_in_for_sub() {
    assert_eq!(user(json!({"sub": "7"})).as_deref(), Ok("7"));
    assert_eq!(user(json!({"sub": "7", "user_id": "8", "id": 9})).as_deref(), Ok("7"));
    assert_eq!(user(json!({"user_id": "8", "id": 9})).as_deref(), Ok("8"));
    assert_eq!(user(json!({"user_id": 8})).as_deref(), Ok("8"));
    assert_eq!(user(json!({"sub": null, "id": 9})).as_deref(), Ok("9"));
    assert_eq!(user(json!({"id": u64::MAX})), Ok(u64::MAX.to_string()));
    assert_eq!(user(json!({"id": -9})).as_deref(), Ok("-9"));
    // A string `id` may well be the token's own.
    assert_eq!(user(json!({"id": "9"})), invalid("no sub"));
    assert_eq!(user(json!({"id": 9.5})), invalid("the user's number is not an integer"));
    assert_eq!(user(json!({"user_id": [8], "id": 9})), invalid("user_id is neither string nor number"));
    assert_eq!(user(json!({})), invalid("no sub"));
}

#[test]
fn odd_users_are_refused() {
    for sub in ["", " 7", "7\n", "@shop", &"x".repeat(196)] {
        assert_eq!(user(json!({"sub": sub, "user_id": "8"})), invalid("sub is no user's id"), "{sub:?}");
    }
    assert_eq!(user(json!({"user_id": "@shop"})), invalid("sub is no user's id"));
    assert_eq!(user(json!({"sub": 7})), invalid("sub is not a string"));
    for sub in [json!(true), json!(["7"]), json!({})] {
        assert!(matches!(user(json!({"sub": sub, "user_id": "8"})), Err(TokenError::Invalid(_))), "{sub}");
    }
}

#[test]
fn issuer_and_audience_must_be_there_and_match_when_set() {
    let strict = Verifier::hs256(&[Secret::new(SECRET)], Some("https://id.example"), Some("espigon"));
    let verify = |iss: Value, aud: Value| {
        strict.verify(&sign(&json!({"sub": "7", "exp": NOW + 60, "iss": iss, "aud": aud})), NOW).map(|_| ())
    };
    let iss = json!("https://id.example");
    assert_eq!(verify(iss.clone(), json!("espigon")), Ok(()));
    assert_eq!(verify(iss.clone(), json!(["other", "espigon"])), Ok(()));
    assert_eq!(verify(iss.clone(), json!("other")), invalid("another aud"));
    assert_eq!(verify(iss.clone(), json!([])), invalid("another aud"));
    assert_eq!(verify(iss, json!(null)), invalid("no aud"));
    assert_eq!(verify(json!("https://id.example/"), json!("espigon")), invalid("another iss"));
    assert_eq!(verify(json!(7), json!("espigon")), invalid("no iss"));
    assert_eq!(verify(json!(null), json!("espigon")), invalid("no iss"));
}

#[test]
fn issuer_and_audience_do_not_matter_when_unset() {
    assert!(verify(&json!({"sub": "7", "exp": NOW + 60, "iss": "a", "aud": ["b"]})).is_ok());
}

#[test]
fn rooms_and_role_are_read() {
    let of = |mut claims: Value| {
        claims["sub"] = json!("7");
        claims["exp"] = json!(NOW + 60);
        let claims = verify(&claims).unwrap();
        (claims.rooms, claims.auto_join)
    };
    let only = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect::<Box<[Box<str>]>>();
    assert_eq!(of(json!({})), (RoomClaims::Only(only(&[])), only(&[])));
    assert_eq!(of(json!({"rooms": ["a", "b-*", 7, null]})).0, RoomClaims::Only(only(&["a", "b-*"])));
    assert_eq!(of(json!({"rooms": "a"})).0, RoomClaims::Only(only(&[])));
    assert_eq!(of(json!({"auto_join": ["news", " odd "]})).1, only(&["news", " odd "]));
    for role in ["admin", "Admin", "ADMIN"] {
        assert_eq!(of(json!({"role": role, "rooms": ["a"]})).0, RoomClaims::All);
    }
    for role in [json!("administrator"), json!(" admin"), json!(["admin"]), json!(true)] {
        assert_eq!(of(json!({"role": role})).0, RoomClaims::Only(only(&[])));
    }
}

#[test]
fn neither_errors_nor_debug_tell_a_secret() {
    let token = sign(&json!({"sub": "@tell-tale", "exp": NOW + 60}));
    let error = verifier().verify(&token, NOW).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("tell-tale"));
    assert!(!format!("{:?}", verifier()).contains(SECRET));
}
