use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, Version, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Refusal;
use crate::protocol::SUBPROTOCOL;

/// A valid opening handshake (RFC 6455, section 4.2.1), and what it offers.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The value of `Sec-WebSocket-Accept`.
    pub(super) accept: String,
    pub(super) offers_realtime: bool,
    /// The token in a subprotocol `bearer.<jwt>`.
    pub(super) bearer: Option<String>,
}

impl Handshake {
    pub(super) fn check(request: &Request) -> Result<Self, Refusal> {
        let headers = request.headers();
        if request.method() != Method::GET || request.version() != Version::HTTP_11 {
            return Err(Refusal::bad_request("a WebSocket begins with GET, HTTP/1.1"));
        }
        // What follows the head is WebSocket; a body would be taken for it, by us or by a proxy before us.
        let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
        if !empty || headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(Refusal::bad_request("a WebSocket begins with a request without a body"));
        }
        if !lists(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
            || !lists(headers, &header::UPGRADE).any(|token| token.eq_ignore_ascii_case("websocket"))
        {
            return Err(Refusal::bad_request("a WebSocket begins with Connection: Upgrade, Upgrade: websocket"));
        }
        // Of two, we might read one and a proxy before us the other.
        for name in [header::HOST, header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_KEY] {
            if headers.get_all(name).iter().count() > 1 {
                return Err(Refusal::bad_request("a header that must stand once stands twice"));
            }
        }
        if !headers.contains_key(header::HOST) {
            return Err(Refusal::bad_request("a WebSocket begins with a request that has a Host"));
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Refusal::VERSION);
        }
        let key = headers
            .get(header::SEC_WEBSOCKET_KEY)
            .filter(|key| STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16));
        let key = key.ok_or(Refusal::bad_request("Sec-WebSocket-Key is not 16 bytes in base64"))?;
        let (offers_realtime, bearer) = subprotocols(headers)?;
        Ok(Self { accept: derive_accept_key(key.as_bytes()), offers_realtime, bearer })
    }
}

fn subprotocols(headers: &HeaderMap) -> Result<(bool, Option<String>), Refusal> {
    let (mut offered, mut realtime, mut bearer) = (false, false, None);
    for protocol in lists(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
        offered = true;
        realtime |= protocol == SUBPROTOCOL;
        if let Some(token) = protocol.strip_prefix("bearer.") {
            bearer = bearer.or_else(|| Some(token.to_owned()));
        }
    }
    if offered && !realtime {
        return Err(Refusal::bad_request("of subprotocols, realtime.v1 is spoken here"));
    }
    Ok((realtime, bearer))
}

/// The elements of a comma-separated header, over all its lines.
fn lists<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// The first value of a query parameter.
pub(super) fn query(request: &Request, name: &str) -> Option<String> {
    let pairs = request.uri().query()?.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode};

    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("host", "edge.example"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn check(change: &[(&str, Option<&str>)]) -> Result<Handshake, StatusCode> {
        let mut request = Request::builder().uri("/ws?token=a%20b&x");
        for (name, value) in GOOD {
            let changed = change.iter().find(|(other, _)| *other == name);
            if let Some(value) = changed.map_or(Some(value), |(_, value)| *value) {
                request = request.header(name, value);
            }
        }
        for (name, value) in change.iter().filter(|(name, _)| GOOD.iter().all(|(other, _)| other != name)) {
            request = request.header(*name, value.unwrap_or_default());
        }
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(query(&request, "token").as_deref(), Some("a b"));
        assert_eq!(query(&request, "tok"), None);
        Handshake::check(&request).map_err(|refusal| refusal.status)
    }

    #[test]
    fn the_handshake_of_the_rfc_is_accepted() {
        assert_eq!(check(&[]).unwrap().accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        for header in ["host", "connection", "upgrade", "sec-websocket-key"] {
            assert_eq!(check(&[(header, None)]).unwrap_err(), StatusCode::BAD_REQUEST, "{header}");
        }
        for key in ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "not base64 at all!!!!!!!"] {
            assert_eq!(check(&[("sec-websocket-key", Some(key))]).unwrap_err(), StatusCode::BAD_REQUEST, "{key}");
        }
        for version in [None, Some("8"), Some("13, 8")] {
            assert_eq!(check(&[("sec-websocket-version", version)]).unwrap_err(), StatusCode::UPGRADE_REQUIRED);
        }
    }

    #[test]
    fn a_body_is_refused() {
        assert!(check(&[("content-length", Some("0"))]).is_ok());
        assert_eq!(check(&[("content-length", Some("5"))]).unwrap_err(), StatusCode::BAD_REQUEST);
        assert_eq!(check(&[("transfer-encoding", Some("chunked"))]).unwrap_err(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn subprotocols_are_ours_or_none() {
        let offers = |list| check(&[("sec-websocket-protocol", Some(list))]);
        assert!(!check(&[]).unwrap().offers_realtime);
        assert!(offers("realtime.v1").unwrap().offers_realtime);
        let both = offers("realtime.v1, bearer.abc").unwrap();
        assert_eq!((both.offers_realtime, both.bearer.as_deref()), (true, Some("abc")));
        assert_eq!(offers("bearer.abc").unwrap_err(), StatusCode::BAD_REQUEST);
        assert_eq!(offers("chat").unwrap_err(), StatusCode::BAD_REQUEST);
        assert!(offers("chat, realtime.v1").unwrap().offers_realtime);
    }
}
