//! Settings of both tiers: a start is refused by one line that names a setting, or the settings go together; and the
//! values that have parsers of their own.

use axum::http::Request;
use clap::{CommandFactory, Parser};
use edge::config::{Config as EdgeConfig, Flags, Secrets};
use fanout::{
    auth::{ApiKeys, Right},
    config::Config as FanoutConfig,
};
use service::settings::{self, Secret};

use crate::input::Input;

/// See the module. First a byte that says whose settings they are, then lines: a byte that picks the flag, and its value.
///
/// # Panics
/// If it does not hold.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let of_edge = input.byte().is_multiple_of(2);
    let rest = String::from_utf8_lossy(input.rest());
    for line in rest.lines() {
        values(line);
    }
    if of_edge {
        let Ok(flags) = Flags::try_parse_from(args::<Flags>(&rest)) else { return };
        let mut secrets = Secrets::default();
        secrets.keys.jwt = vec![Secret::new("secret")];
        let window = flags.drain_window + flags.write_wait;
        match EdgeConfig::new(flags, secrets) {
            Ok(config) => assert!(window <= config.common().shutdown_timeout),
            Err(line) => check(&line),
        }
    } else if let Ok(config) = FanoutConfig::try_parse_from(args::<FanoutConfig>(&rest)) {
        match config.check() {
            // No secrets here, so no listener beyond loopback (architecture, rule 7).
            Ok(()) => assert!(config.link_listen.ip().is_loopback() && config.api_listen.ip().is_loopback()),
            Err(line) => check(&line),
        }
    }
}

/// A refusal is one line with the name of a setting in it.
fn check(line: &str) {
    assert!(!line.contains('\n'), "{line:?}");
    let is_name = |word: &str| word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    assert!(line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(is_name), "{line:?}");
}

fn values(text: &str) {
    let _ = settings::duration(text);
    assert!(!settings::positive_duration(text).is_ok_and(|time| time.is_zero()));
    assert!(!settings::size(text).is_ok_and(|size| size == 0));
    assert!(!settings::rate(text).is_ok_and(|rate| rate == 0));
    let _ = settings::listen_address(text);
    if let Ok(keys) = ApiKeys::parse(text) {
        assert!(!keys.is_empty(), "a slip lets everybody in: {text:?}");
        assert!(keys.admit(&Request::new(()), Right::Read).is_err());
    }
}

/// A command line: of each line the first character picks the flag.
fn args<T: CommandFactory>(lines: &str) -> Vec<String> {
    let command = T::command();
    let is_value = |name: &str| {
        // Those are files, and help ends the start.
        !name.ends_with("cert")
            && !name.ends_with("key")
            && !name.ends_with("ca")
            && name != "help"
            && name != "version"
    };
    let flags: Vec<_> = command.get_arguments().filter_map(|flag| flag.get_long()).filter(|f| is_value(f)).collect();
    let arg = |line: &str| {
        let mut characters = line.chars();
        let index = characters.next().map_or(0, |character| character as usize) % flags.len();
        format!("--{}={}", flags[index], characters.as_str())
    };
    std::iter::once("tier".to_owned()).chain(lines.lines().map(arg)).collect()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let values = [
        "30s",
        "1m 30s",
        "64KiB",
        "50/s",
        "0.0.0.0:8080",
        ":7000",
        "true",
        "dns://fanout:7000",
        "http://a:1,http://[::1]:2",
        "https://*.example.com,https://b.example",
        "order-{id}=/orders/{id}/can_access",
        "10.0.0.0/8,192.0.2.1",
        "redis+sentinel://a:1,b:2/main/0",
        "rediss://a:1/2",
        "shop:s3cret:read,b:c",
    ];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for tier in [0, 1] {
        for value in values {
            // Each flag meets each kind of value.
            for flag in 32_u8..80 {
                seeds.push([&[tier, flag], value.as_bytes()].concat());
            }
        }
    }
    seeds
}
