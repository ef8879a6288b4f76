//! Browsers on the machine of a node without keys. Such a node listens on loopback and takes whoever comes; but a page of
//! any site can have its visitor's browser send something there, and a site's name may be made to point there (DNS
//! rebinding), for its pages to read as well. With keys there is no need: a strange page has none.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

/// Whether a page that is not the node's own sent the request.
pub(super) fn is_strange(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    let foreign = text(header::ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != Some(host));
    foreign || is_of_a_site(host)
}

/// A site has a name with a dot in it, and addresses are no names.
fn is_of_a_site(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.contains('.') && name.parse::<IpAddr>().is_err() && !name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn strange(host: &'static str, origin: Option<&'static str>) -> bool {
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, value(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, value(origin));
        }
        is_strange(&headers)
    }

    #[test]
    fn pages_of_others_are_told_by_their_origin_or_the_name_they_came_by() {
        for host in ["127.0.0.1:7100", "localhost:7100", "[::1]:7100", "fanout", "app.localhost:7100"] {
            assert!(!strange(host, None), "{host}");
        }
        for host in ["rebound.example", "rebound.example:7100", "127.0.0.1.example:7100"] {
            assert!(strange(host, None), "{host}");
        }
        assert!(!strange("127.0.0.1:7100", Some("http://127.0.0.1:7100")));
        for origin in ["https://shop.example", "http://127.0.0.1:8088", "http://localhost:7100", "null", ""] {
            assert!(strange("127.0.0.1:7100", Some(origin)), "{origin}");
        }
        assert!(strange("rebound.example:7100", Some("http://rebound.example:7100")));
    }
}
