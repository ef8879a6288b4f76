//! The `Origin` header: which pages may open sockets here (`PROTOCOL.md`, section 1). A browser sends the page's origin
//! with each socket and does not keep a page from opening one to another site, so the edge has to.

/// The pages let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those of the host that the request is for.
    Same,
    /// All of them, also those without an origin of their own (`null`).
    Any,
    Listed(Vec<Pattern>),
}

/// An entry of `WS_ORIGINS`: one origin, or with `*.` before the host those of its sub-domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    origin: Origin,
    sub_domains: bool,
}

/// Scheme and host in lower case. No port: the scheme has no default and none was given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origins {
    /// Reads `WS_ORIGINS`: `*`, or origins with commas between them. Unset or blank: the same origin only.
    pub fn parse(setting: Option<&str>) -> Result<Self, String> {
        match setting.map(str::trim) {
            None | Some("") => Ok(Self::Same),
            Some("*") => Ok(Self::Any),
            Some(list) => {
                list.split(',').map(|entry| Pattern::parse(entry.trim())).collect::<Result<_, _>>().map(Self::Listed)
            }
        }
    }

    /// Whether a request with these two headers is let in. What is no browser sends no `Origin` and is let in.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        match self {
            Self::Any => true,
            Self::Same => Origin::parse(origin).is_some_and(|origin| host.is_some_and(|host| origin.is_at(host))),
            Self::Listed(patterns) => {
                Origin::parse(origin).is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(&origin)))
            }
        }
    }
}

impl Pattern {
    fn parse(entry: &str) -> Result<Self, String> {
        let shape =
            || format!("{entry:?} is not an origin: write https://example.com, https://*.example.com or * alone");
        if !entry.is_ascii() {
            return Err(format!("{entry:?}: write the host as browsers send it, in its ASCII form (xn--…)"));
        }
        let (scheme, rest) = entry.split_once("://").ok_or_else(shape)?;
        let (sub_domains, rest) = rest.strip_prefix("*.").map_or((false, rest), |rest| (true, rest));
        let origin = Origin::parse(&format!("{scheme}://{rest}")).ok_or_else(shape)?;
        // An address has no sub-domains.
        if sub_domains && origin.host.starts_with('[') {
            return Err(shape());
        }
        Ok(Self { origin, sub_domains })
    }

    fn matches(&self, origin: &Origin) -> bool {
        let host = if self.sub_domains {
            // With the dot, so that `evilexample.com` is no sub-domain of `example.com`.
            let labels = origin.host.strip_suffix(&*self.origin.host).and_then(|start| start.strip_suffix('.'));
            labels.is_some_and(|labels| labels.split('.').all(|label| !label.is_empty()))
        } else {
            origin.host == self.origin.host
        };
        host && origin.scheme == self.origin.scheme && origin.port == self.origin.port
    }
}

impl Origin {
    /// `scheme://host[:port]` and nothing more: no path, no user, no `null`.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.bytes().next()?.is_ascii_alphabetic() || !scheme.bytes().all(letters) {
            return None;
        }
        let (host, port) = split_port(authority)?;
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Whether this is the origin of pages that this host serves. The edge cannot know the scheme (an ingress may have
    /// ended TLS), so it is taken from the page.
    fn is_at(&self, host: &str) -> bool {
        let Some((name, port)) = split_port(host) else { return false };
        let default = default_port(&self.scheme);
        default.is_some() && self.host == name && self.port == port.or(default)
    }
}

/// Host, in lower case, and port of `host[:port]`.
fn split_port(authority: &str) -> Option<(String, Option<u16>)> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    let port = match rest.strip_prefix(':') {
        // `parse` alone would take a sign.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
        None if rest.is_empty() => None,
        Some(_) | None => return None,
    };
    is_host(host).then(|| (host.to_ascii_lowercase(), port))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
