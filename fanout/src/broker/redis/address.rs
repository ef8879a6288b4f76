//! Where Redis is, as `REDIS_ADDR` says it.

use std::{fmt, str::FromStr};

/// `host:port`, or `redis://host:port/<db>`. A user and a password have settings of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    pub host: String,
    pub port: u16,
    pub db: u32,
}

/// Redis's own port.
const PORT: u16 = 6379;

impl FromStr for RedisAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || "an address looks like host:port or redis://host:port/<db>".to_owned();
        let rest = match text.split_once("://") {
            None | Some(("redis", _)) => text.strip_prefix("redis://").unwrap_or(text),
            Some(("rediss", _)) => return Err("rediss:// is not supported by this version".to_owned()),
            Some(("redis+sentinel", _)) => return Err("redis+sentinel:// is not supported by this version".to_owned()),
            Some(_) => return Err(shape()),
        };
        if rest.contains('@') {
            return Err("user and password belong into REDIS_USERNAME and REDIS_PASSWORD".to_owned());
        }
        let (address, db) = rest.split_once('/').unwrap_or((rest, ""));
        let db = if db.is_empty() { 0 } else { db.parse().map_err(|_| shape())? };
        let (host, port) = split_port(address).ok_or_else(shape)?;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(shape());
        }
        Ok(Self { host: host.to_owned(), port, db })
    }
}

fn split_port(address: &str) -> Option<(&str, u16)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { PORT } else { rest.strip_prefix(':')?.parse().ok()? };
        return Some((host, port));
    }
    match address.split_once(':') {
        None => Some((address, PORT)),
        Some((host, port)) => Some((host, port.parse().ok()?)),
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.db)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let of = |host: &str, port, db| Ok(RedisAddress { host: host.to_owned(), port, db });
        assert_eq!("redis:6380".parse(), of("redis", 6380, 0));
        assert_eq!("redis://10.0.0.1:6379/3".parse(), of("10.0.0.1", 6379, 3));
        assert_eq!("redis://cache".parse(), of("cache", 6379, 0));
        assert_eq!("[::1]:7/2".parse(), of("::1", 7, 2));
        for bad in ["", ":6379", "a:b", "a:1:2", "redis://a/x", "redis://u:p@a:1", "rediss://a:1", "http://a:1"] {
            assert!(bad.parse::<RedisAddress>().is_err(), "{bad}");
        }
    }
}
