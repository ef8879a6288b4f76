//! How settings are read: durations as `30s`, sizes as `64KiB`, rates as `50/s`, secrets from the environment or a
//! file. A bad one ends the start with one clear line and exit code 64 (`EX_USAGE` of sysexits.h).

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{
    Args, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    telemetry::{LogFormat, parse_level},
    tls::Files,
    traces::OtlpEndpoint,
};

/// `EX_USAGE`: the command was used incorrectly.
const EX_USAGE: u8 = 64;

/// The settings of both tiers.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// What to log: a level, or directives such as `info,edge::upstream=debug`
    #[arg(long, env, default_value = "info", value_parser = parse_level)]
    pub log_level: String,

    /// Default: text on a terminal, else json
    #[arg(long, env)]
    pub log_format: Option<LogFormat>,

    /// After this time a shutdown becomes a hard stop
    #[arg(long, env, default_value = "40s", value_parser = duration)]
    pub shutdown_timeout: Duration,

    /// Allow credentials without TLS beyond loopback (compose, a mesh)
    #[arg(long, env, default_value_t = false, action = clap::ArgAction::Set)]
    pub allow_plaintext: bool,

    /// A collector that takes traces by OTLP over gRPC, `http://host:4317` [default: no traces]
    #[arg(long, env)]
    pub otel_exporter_otlp_endpoint: Option<OtlpEndpoint>,
}

/// Mutual TLS between the tiers: all three or none.
#[derive(Debug, Clone, Default, Args)]
pub struct LinkTls {
    /// The certificate with which links are made or taken, a chain in PEM; renewed while in use [default: no TLS]
    #[arg(long, env)]
    pub link_tls_cert: Option<PathBuf>,

    /// Its key, in PEM
    #[arg(long, env)]
    pub link_tls_key: Option<PathBuf>,

    /// Who must have signed the other side's certificate, in PEM
    #[arg(long, env)]
    pub link_tls_ca: Option<PathBuf>,
}

impl LinkTls {
    /// `Err` names the setting that is missing.
    pub fn files(&self) -> Result<Option<Files>, String> {
        let cert = ("LINK_TLS_CERT", self.link_tls_cert.as_deref());
        let files = Files::of(cert, ("LINK_TLS_KEY", self.link_tls_key.as_deref()), self.link_tls_ca.as_deref())?;
        match (&files, &self.link_tls_ca) {
            (Some(_), None) => Err("LINK_TLS_CERT is set, so LINK_TLS_CA must be".to_owned()),
            (None, Some(_)) => Err("LINK_TLS_CA is set, so LINK_TLS_CERT must be".to_owned()),
            _ => Ok(files),
        }
    }
}

/// Parses flags and environment. `Err` holds what the process should exit with, everything having been printed.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| refused(&error))
}

/// Prints help where that was asked for, else one line that says what is wrong.
pub(crate) fn refused(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    refuse(line(error))
}

/// The error in one line. It quotes what was given, but nothing that credentials may be a part of, as in
/// `http://user:password@host`.
pub fn line(error: &clap::Error) -> String {
    let mut text = error.to_string();
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        let Some(ContextValue::String(given)) = error.get(kind) else { continue };
        // Lists are quoted by their entries.
        for part in std::iter::once(&**given).chain(given.split(',').map(str::trim)) {
            if part.contains('@') {
                text = text.replace(part, "…").replace(&part.escape_debug().to_string(), "…");
            }
        }
    }
    // Parsers may quote a part of a part, such as what follows http://.
    let words = text.split("\n\n").next().unwrap_or_default().split_whitespace();
    let line = words.map(|word| if word.contains('@') { "…" } else { word }).collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

/// Prints why the settings are refused, and returns the exit code that says so.
#[expect(clippy::print_stderr, reason = "before there is a log")]
pub fn refuse(reason: impl fmt::Display) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::from(EX_USAGE)
}

/// A secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// To be handed to what needs it, and to nothing that prints.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The secret `name` from the environment, else from the file that `<name>_FILE` names, without the white space at its
/// ends. An empty variable counts as unset; an empty file, or both being set, is an error.
pub fn secret(name: &str) -> Result<Option<Secret>, String> {
    secret_from(name, env)
}

/// The file that `<name>_FILE` names.
pub(crate) fn secret_path(name: &str) -> Option<PathBuf> {
    env(&format!("{name}_FILE")).map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "secrets are read here, once, for config")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn secret_from(name: &str, env: impl Fn(&str) -> Option<String>) -> Result<Option<Secret>, String> {
    let file = format!("{name}_FILE");
    match (env(name), env(&file)) {
        (Some(_), Some(_)) => Err(format!("{name} and {file} are both set: which one?")),
        (Some(secret), None) => Ok(Some(Secret(secret))),
        (None, Some(path)) => read_secret(&file, Path::new(&path)).map(Some),
        (None, None) => Ok(None),
    }
}

pub(crate) fn read_secret(name: &str, path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: read {}: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("{name}: {} is empty", path.display())),
        secret => Ok(Secret(secret.to_owned())),
    }
}

/// A duration such as `30s`, `1m 30s`, `250ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// As [`duration`], not zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| if time.is_zero() { Err("must not be zero".to_owned()) } else { Ok(time) })
}

/// A size in bytes such as `64KiB`, `1MiB`, `8192`; not zero.
pub fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new().with_binary().parse_size(text).map_err(|error| error.to_string())?;
    match usize::try_from(bytes) {
        Ok(0) => Err("must not be zero".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("too large".to_owned()),
    }
}

/// A rate such as `50/s`: how many in a second; not zero.
pub fn rate(text: &str) -> Result<u32, String> {
    let count = text.strip_suffix("/s").ok_or("a rate looks like 50/s")?;
    match count.parse() {
        Ok(0) => Err("must not be zero".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("a rate looks like 50/s".to_owned()),
    }
}

/// An address to listen on: `host:port` with an IP address, or `:port` for loopback.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("127.0.0.1{text}") } else { text.to_owned() };
    full.parse().map_err(|_| "an address looks like 0.0.0.0:8080, [::]:8080 or :8080 (loopback)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(positive_duration("0s").is_err());
        assert!(duration("soon").is_err());
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("8192"), Ok(8192));
        assert!(size("0").is_err());
        assert!(size("much").is_err());
        assert_eq!(rate("50/s"), Ok(50));
        assert!(rate("50").is_err());
        assert!(rate("0/s").is_err());
        assert_eq!(listen_address(":7000"), Ok(([127, 0, 0, 1], 7000).into()));
        assert_eq!(listen_address("[::1]:80").map(|a| a.port()), Ok(80));
        assert!(listen_address("localhost:80").is_err());
    }

    #[test]
    fn a_refusal_does_not_quote_credentials() {
        #[derive(Debug, Parser)]
        struct Flags {
            #[arg(long, value_parser = |text: &str| Err::<String, _>(format!("{:?} is none", text.trim_start_matches("http://"))))]
            url: String,
        }
        let refused = |args: &[&str]| line(&Flags::try_parse_from([&["tier"], args].concat()).unwrap_err());
        assert_eq!(refused(&["--url", "ftp:x"]), "invalid value 'ftp:x' for '--url <URL>': \"ftp:x\" is none");
        for secret in ["http://u:s3cret@b", "http://a,http://u:s3cret\"\n@b", "x, u:s3cret@b", "http://s3cret@a:1/"] {
            let line = refused(&["--url", secret]);
            assert!(line.starts_with("invalid value '") && line.contains("--url"), "{line}");
            assert!(!line.contains("s3cret") && !line.contains('\n'), "{line}");
        }
        for stray in [&["http://u:s3cret@b"][..], &["--key=shop:s3cret@b"], &["--", "u:s3cret@b"]] {
            assert!(!refused(stray).contains("s3cret"), "{stray:?}");
        }
    }

    #[test]
    fn secrets_come_from_one_place_and_are_not_printed() {
        let path = std::env::temp_dir().join(format!("espigon-secret-{}", std::process::id()));
        std::fs::write(&path, " s3cret\n").unwrap();
        let file = path.to_str().unwrap().to_owned();
        let env = |pairs: Vec<(&'static str, String)>| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
        };

        assert_eq!(secret_from("A", env(vec![])), Ok(None));
        assert_eq!(secret_from("A", env(vec![("A", "x".into())])), Ok(Some(Secret::new("x"))));
        let from_file = secret_from("A", env(vec![("A_FILE", file.clone())])).unwrap().unwrap();
        assert_eq!(from_file.expose(), "s3cret");
        assert_eq!(format!("{from_file:?}"), "Secret(…)");
        assert!(secret_from("A", env(vec![("A", "x".into()), ("A_FILE", file)])).unwrap_err().contains("A_FILE"));
        assert!(secret_from("A", env(vec![("A_FILE", "/nowhere".into())])).unwrap_err().contains("/nowhere"));
        std::fs::remove_file(path).unwrap();
    }
}
