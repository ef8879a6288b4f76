use std::{fmt, ops::Deref, sync::Arc};

/// Longest idempotency key, in bytes of UTF-8.
const MAX_KEY_BYTES: usize = 128;

/// An idempotency key: 1–128 bytes of UTF-8 (`PROTOCOL.md`, section 2). Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

/// Why a string is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has at most {MAX_KEY_BYTES} bytes")]
pub struct KeyError;

impl Key {
    /// `None` for the empty string, which stands for no key.
    pub fn try_new(key: &str) -> Result<Option<Self>, KeyError> {
        match key.len() {
            0 => Ok(None),
            1..=MAX_KEY_BYTES => Ok(Some(Self(key.into()))),
            _ => Err(KeyError),
        }
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        assert_eq!(Key::try_new(""), Ok(None));
        assert_eq!(&*Key::try_new(&"k".repeat(128)).unwrap().unwrap(), "k".repeat(128));
        assert_eq!(Key::try_new(&"k".repeat(129)), Err(KeyError));
    }
}
