use std::str::FromStr;

use http::Uri;

/// Where spans are sent, `http://host:port`: a collector's gRPC port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

impl OtlpEndpoint {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
        let plain = uri.scheme_str() == Some("http");
        // gRPC has its own path.
        let bare = uri.path().trim_start_matches('/').is_empty() && uri.query().is_none();
        let whole = plain && bare && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        whole.then(|| Self(text.to_owned())).ok_or_else(|| "must be as http://host:4317".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_plain_url_without_a_path() {
        for good in ["http://127.0.0.1:4317", "http://collector.monitoring:4317/", "http://[::1]:4317"] {
            assert_eq!(good.parse::<OtlpEndpoint>().unwrap().as_str(), good);
        }
        for bad in ["", "collector:4317", "https://c:4317", "http://c:4317/v1/traces", "http://u:p@c:4317", "http://"] {
            assert!(bad.parse::<OtlpEndpoint>().is_err(), "{bad}");
        }
    }
}
