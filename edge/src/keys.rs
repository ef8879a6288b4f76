//! What is made of the secrets: the verifier of tokens, and the keys of grants. Both change together when a secret's file
//! does.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{auth::Verifier, authorize::Grants};

/// The keys in force. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Keys(Arc<ArcSwap<KeySet>>);

#[derive(Debug)]
pub struct KeySet {
    pub verifier: Verifier,
    /// None: grants are off.
    pub grants: Option<Grants>,
}

impl Keys {
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }

    pub fn now(&self) -> Arc<KeySet> {
        self.0.load_full()
    }

    pub fn replace(&self, keys: KeySet) {
        self.0.store(Arc::new(keys));
    }
}
