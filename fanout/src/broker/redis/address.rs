//! Where Redis is, as `REDIS_ADDR` says it.

use std::{fmt, str::FromStr};

/// `host:port`, `redis://host:port/<db>`, the same over TLS with `rediss://`, or by way of Sentinels with
/// `redis+sentinel://host:port,host:port/<name>/<db>`. A user and a password have settings of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    pub place: Place,
    pub db: u32,
    pub tls: bool,
}

/// How a primary is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    At(Server),
    /// The one that they name.
    Sentinels {
        sentinels: Vec<Server>,
        name: String,
    },
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub host: String,
    pub port: u16,
}

/// Redis's own port, and that of its Sentinels.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

const SHAPE: &str = "an address looks like host:port, redis://host:port/<db>, rediss://host:port/<db> or \
                     redis+sentinel://host:port,host:port/<name>/<db>";

impl FromStr for RedisAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("redis", text));
        if rest.contains('@') {
            return Err("user and password belong into REDIS_USERNAME and REDIS_PASSWORD".to_owned());
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let parsed = match scheme {
            "redis" | "rediss" => (|| Some((Place::At(server(hosts, PORT)?), db(path)?)))(),
            "redis+sentinel" => (|| {
                let (name, path) = path.split_once('/').unwrap_or((path, ""));
                let sentinels = hosts.split(',').map(|host| server(host, SENTINEL_PORT)).collect::<Option<_>>()?;
                let named = !name.is_empty() && !name.contains(char::is_whitespace);
                Some((Place::Sentinels { sentinels, name: named.then(|| name.to_owned())? }, db(path)?))
            })(),
            _ => None,
        };
        let (place, db) = parsed.ok_or(SHAPE)?;
        Ok(Self { place, db, tls: scheme == "rediss" })
    }
}

fn db(path: &str) -> Option<u32> {
    if path.is_empty() { Some(0) } else { path.parse().ok() }
}

fn server(address: &str, port: u16) -> Option<Server> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { port } else { rest.strip_prefix(':')?.parse().ok()? })
        }
        None => match address.split_once(':') {
            None => (address, port),
            Some((host, port)) => (host, port.parse().ok()?),
        },
    };
    let fits = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == ',');
    fits.then(|| Server { host: host.to_owned(), port })
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::At(server) => write!(f, "{server}/{}", self.db),
            Place::Sentinels { name, .. } => write!(f, "{name}/{}", self.db),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Server {
        Server { host: host.to_owned(), port }
    }

    #[test]
    fn addresses_are_read() {
        let of = |host: &str, port, db, tls| Ok(RedisAddress { place: Place::At(at(host, port)), db, tls });
        assert_eq!("redis:6380".parse(), of("redis", 6380, 0, false));
        assert_eq!("redis://10.0.0.1:6379/3".parse(), of("10.0.0.1", 6379, 3, false));
        assert_eq!("redis://cache".parse(), of("cache", 6379, 0, false));
        assert_eq!("[::1]:7/2".parse(), of("::1", 7, 2, false));
        assert_eq!("rediss://cache:7".parse(), of("cache", 7, 0, true));
        for bad in [
            "",
            ":6379",
            "a:b",
            "a:1:2",
            "a:1,b:2",
            "redis://a/x",
            "redis://a/1/2",
            "redis://u:p@a:1",
            "http://a:1",
            "redis+sentinel://a:1",
            "redis+sentinel://a:1,/name",
            "redis+sentinel://a:1/name/x",
        ] {
            assert!(bad.parse::<RedisAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sentinels_name_their_primary() {
        let of = |sentinels: &[Server], db| {
            let place = Place::Sentinels { sentinels: sentinels.to_vec(), name: "main".to_owned() };
            Ok(RedisAddress { place, db, tls: false })
        };
        assert_eq!("redis+sentinel://a:1,[::1]:2,c/main".parse(), of(&[at("a", 1), at("::1", 2), at("c", 26379)], 0));
        assert_eq!("redis+sentinel://a:1/main/4".parse(), of(&[at("a", 1)], 4));
    }
}
