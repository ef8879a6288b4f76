use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair,
    },
};
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::auth::{Claims, TokenError, Verifier};

const NOW: i64 = 1_795_480_000;

/// A key of an issuer's, and what its document says of it.
pub(crate) struct TestKey {
    algorithm: Algorithm,
    private: EncodingKey,
    pub(crate) public: Value,
}

impl TestKey {
    fn new(algorithm: Algorithm, private: EncodingKey, kid: &str) -> Self {
        let mut public = serde_json::to_value(Jwk::from_encoding_key(&private, algorithm).unwrap()).unwrap();
        public["kid"] = json!(kid);
        Self { algorithm, private, public }
    }

    fn rsa(size: KeySize, kid: &str) -> Self {
        let pair = aws_lc_rs::rsa::KeyPair::generate(size).unwrap();
        let pkcs8 = pair.as_der().unwrap();
        // PKCS#8 wraps PKCS#1, which the library wants, in an octet string at the end.
        let start = pkcs8.as_ref().windows(4).skip(4).position(|bytes| bytes[0] == 0x30 && bytes[1] == 0x82).unwrap();
        let inner = pkcs8.as_ref()[4 + start..].windows(2).position(|bytes| bytes == [0x30, 0x82]).unwrap();
        Self::new(Algorithm::RS256, EncodingKey::from_rsa_der(&pkcs8.as_ref()[4 + start + inner..]), kid)
    }

    fn ec(algorithm: Algorithm, curve: &'static EcdsaSigningAlgorithm, kid: &str) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        Self::new(algorithm, EncodingKey::from_ec_der(pkcs8.as_ref()), kid)
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        Self::new(Algorithm::EdDSA, EncodingKey::from_ed_der(pkcs8.as_ref()), kid)
    }

    pub(crate) fn sign(&self, exp: i64) -> String {
        self.sign_as(self.public["kid"].as_str(), exp)
    }

    fn sign_as(&self, kid: Option<&str>, exp: i64) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(self.algorithm) };
        encode(&header, &json!({"sub": "7", "exp": exp}), &self.private).unwrap()
    }
}

pub(crate) fn document<'a>(keys: impl IntoIterator<Item = &'a Value>) -> Vec<u8> {
    json!({"keys": keys.into_iter().collect::<Vec<_>>()}).to_string().into_bytes()
}

fn verifier(document: &[u8]) -> Verifier {
    Verifier::issuer(&IssuerKeys::parse(document).unwrap(), None, None)
}

fn verify(verifier: &Verifier, token: &str) -> Result<Claims, TokenError> {
    verifier.verify(token, NOW)
}

#[test]
fn keys_of_three_kinds_verify_what_they_signed() {
    let keys = [
        TestKey::rsa(KeySize::Rsa2048, "r"),
        TestKey::ec(Algorithm::ES256, &ECDSA_P256_SHA256_FIXED_SIGNING, "e"),
        TestKey::ed25519("o"),
    ];
    let verifier = verifier(&document(keys.iter().map(|key| &key.public)));
    for key in &keys {
        let claims = verify(&verifier, &key.sign(NOW + 60)).unwrap();
        assert_eq!((&*claims.user, claims.expires), ("7", NOW + 60));
        assert_eq!(verify(&verifier, &key.sign(NOW)), Err(TokenError::Expired));
        assert_eq!(verify(&verifier, &key.sign_as(Some("x"), NOW + 60)), Err(TokenError::UnknownKey));
        assert_eq!(verify(&verifier, &key.sign_as(None, NOW + 60)), Err(TokenError::Invalid("no kid")));
        // Signed with one key in another's name.
        for other in keys.iter().filter(|other| other.algorithm != key.algorithm) {
            let token = key.sign_as(other.public["kid"].as_str(), NOW + 60);
            assert_eq!(verify(&verifier, &token), Err(TokenError::Invalid("algorithm")));
        }
    }
    let impostor = TestKey::ed25519("o").sign(NOW + 60);
    assert_eq!(verify(&verifier, &impostor), Err(TokenError::Invalid("signature")));
}

#[test]
fn a_public_key_is_no_secret() {
    let rsa = TestKey::rsa(KeySize::Rsa2048, "r");
    let verifier = verifier(&document([&rsa.public]));
    let modulus = rsa.public["n"].as_str().unwrap();
    let decoded = URL_SAFE_NO_PAD.decode(modulus).unwrap();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&decoded));
    for secret in [modulus.as_bytes(), &decoded, pem.as_bytes(), rsa.public.to_string().as_bytes(), b""] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header { kid: Some("r".to_owned()), ..Header::new(algorithm) };
            let claims = json!({"sub": "7", "exp": NOW + 60});
            let token = encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
            assert_eq!(verify(&verifier, &token), Err(TokenError::Invalid("algorithm")));
        }
    }
    let good = rsa.sign(NOW + 60);
    let (_, rest) = good.split_once('.').unwrap();
    for algorithm in ["none", "None", "RS384", "PS256", "ES256", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": algorithm, "kid": "r"}).to_string());
        assert!(matches!(verify(&verifier, &format!("{header}.{rest}")), Err(TokenError::Invalid(_))), "{algorithm}");
    }
}

#[test]
fn keys_for_other_uses_are_passed_over() {
    let good = TestKey::ed25519("good").public;
    let mut others = vec![
        json!({"kty": "oct", "kid": "a", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "new", "kid": "b"}),
        json!("no key at all"),
        TestKey::ec(Algorithm::ES384, &ECDSA_P384_SHA384_FIXED_SIGNING, "c").public,
    ];
    for (name, value) in
        [("use", json!("enc")), ("key_ops", json!(["sign"])), ("alg", json!("RS256")), ("kid", json!(null))]
    {
        let mut other = TestKey::ed25519(name).public;
        other[name] = value;
        others.push(other);
    }
    // Under 2,048 bits.
    let mut small = TestKey::rsa(KeySize::Rsa2048, "small").public;
    small["n"] = json!(URL_SAFE_NO_PAD.encode([0xff; 255]));
    others.push(small);
    // The second of that name.
    others.push(TestKey::ed25519("good").public);
    assert_eq!(IssuerKeys::parse(&document(&others[..others.len() - 1])).unwrap_err(), DocumentError::NoKeys);
    let keys = IssuerKeys::parse(&document(std::iter::once(&good).chain(&others))).unwrap();
    assert_eq!(keys.iter().map(|(kid, ..)| kid).collect::<Vec<_>>(), ["good"]);
}

#[test]
fn documents_of_another_form_are_refused() {
    for (document, error) in [
        ("", DocumentError::Malformed),
        ("[]", DocumentError::Malformed),
        (r#"{"keys":{}}"#, DocumentError::Malformed),
        (r#"{"keys":[]}"#, DocumentError::NoKeys),
    ] {
        assert_eq!(IssuerKeys::parse(document.as_bytes()).unwrap_err(), error, "{document}");
    }
    let key = TestKey::ed25519("k").public;
    let many = document(std::iter::repeat_n(&key, MAX_KEYS + 1));
    assert_eq!(IssuerKeys::parse(&many).unwrap_err(), DocumentError::TooMany);
}
