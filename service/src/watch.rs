//! Secrets whose files are watched, so that they can be changed without a restart. Kubernetes swaps symbolic links rather
//! than write to a file, so contents are compared, not times or inodes.

use std::{path::PathBuf, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::settings::{self, Secret};

/// How often a file is read again. The kubelet takes about a minute to bring a change; this adds little to it.
const PERIOD: Duration = Duration::from_secs(2);

/// A secret as it was at the start, and the file to watch if it came from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub secret: Secret,
    pub file: Option<SecretFile>,
}

/// As [`settings::secret`], with the file it came from.
pub fn secret(name: &str) -> Result<Option<Found>, String> {
    let Some(secret) = settings::secret(name)? else { return Ok(None) };
    let file = settings::secret_path(name).map(|path| SecretFile::new(name, path, secret.clone()));
    Ok(Some(Found { secret, file }))
}

/// A file with a secret, and what was last read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Of the setting, for the log.
    name: String,
    path: PathBuf,
    last: Secret,
}

/// What a look at a file brought. Each is logged when it begins, not as long as it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Good,
    Unreadable,
}

impl SecretFile {
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, last: Secret) -> Self {
        Self { name: name.into(), path: path.into(), last }
    }

    /// Offers each new content to `take` for as long as this is polled. What cannot be read, or is refused with a reason
    /// (which must not hold the secret), leaves the old one in force, is logged once and tried again when it changes.
    pub async fn watch(mut self, mut take: impl FnMut(&Secret) -> Result<(), String>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen::Good;
        loop {
            ticks.tick().await;
            seen = self.look(seen, &mut take);
        }
    }

    /// A file this small is read in microseconds, from memory.
    fn look(&mut self, before: Seen, take: &mut impl FnMut(&Secret) -> Result<(), String>) -> Seen {
        let secret = match settings::read_secret(&self.name, &self.path) {
            Ok(secret) => secret,
            Err(error) => {
                if before == Seen::Good {
                    tracing::warn!(secret = self.name, error, "a secret's file cannot be read: keeping the old one");
                }
                return Seen::Unreadable;
            }
        };
        if secret != self.last {
            match take(&secret) {
                Ok(()) => tracing::info!(secret = self.name, "a secret was changed"),
                Err(reason) => tracing::warn!(secret = self.name, reason, "a new secret is bad: keeping the old one"),
            }
            self.last = secret;
        }
        Seen::Good
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_contents_are_offered_once_and_bad_ones_left() {
        let path = std::env::temp_dir().join(format!("espigon-watch-{}", std::process::id()));
        let taken = Mutex::new(Vec::new());
        let file = SecretFile::new("A", &path, Secret::new("one"));
        let watch = file.watch(|secret| {
            taken.lock().unwrap().push(secret.expose().to_owned());
            if secret.expose() == "bad" { Err("no".to_owned()) } else { Ok(()) }
        });
        tokio::pin!(watch);
        for content in
            [Some("one\n"), Some("two"), Some("two"), Some(" "), None, Some("bad"), Some("bad"), Some("3\n4")]
        {
            match content {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let _ = tokio::time::timeout(PERIOD * 2, watch.as_mut()).await;
        }
        // As Kubernetes does it: the name leads to another file.
        let other = path.with_extension("other");
        std::fs::write(&other, "five").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let _ = tokio::time::timeout(PERIOD * 2, watch.as_mut()).await;
        assert_eq!(*taken.lock().unwrap(), ["two", "bad", "3\n4", "five"]);
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(other).unwrap();
    }
}
