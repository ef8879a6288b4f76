use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use aws_lc_rs::{rand::SystemRandom, signature::Ed25519KeyPair};
use axum::{Router, response::IntoResponse as _};
use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use serde_json::{Value, json};
use service::{Lifecycle, accept};

/// Whoever issues the tokens, and publishes its keys; none at first.
#[derive(Debug)]
pub(crate) struct Issuer {
    address: SocketAddr,
    keys: Arc<Mutex<Vec<Value>>>,
    lifecycle: Lifecycle,
}

/// One of its keys, for EdDSA.
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    pub(crate) private: EncodingKey,
    public: Value,
}

impl SigningKey {
    pub(crate) fn generate(kid: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let private = EncodingKey::from_ed_der(pkcs8.as_ref());
        let mut public = serde_json::to_value(Jwk::from_encoding_key(&private, Algorithm::EdDSA).unwrap()).unwrap();
        public["kid"] = json!(kid);
        Self { kid: kid.to_owned(), private, public }
    }
}

impl Issuer {
    pub(crate) fn start() -> Self {
        let keys = Arc::<Mutex<Vec<Value>>>::default();
        let shown = keys.clone();
        let document = move || {
            let document = json!({"keys": *shown.lock().unwrap()}).to_string();
            async move { document.into_response() }
        };
        let listener = accept::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let lifecycle = Lifecycle::new();
        let router = Router::new().fallback(document);
        lifecycle.spawn(accept::serve_http1(listener, router, lifecycle.clone(), lifecycle.drain().clone()));
        Self { address, keys, lifecycle }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// From now on these are its keys.
    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        *self.keys.lock().unwrap() = keys.iter().map(|key| key.public.clone()).collect();
    }

    /// It answers no more.
    pub(crate) fn stop(self) {
        self.lifecycle.drain().cancel();
    }
}
