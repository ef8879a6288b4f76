//! HTTP to services of the operator's: the backend, the issuer of tokens. Where to ask is a setting; the environment
//! and whoever answers have no say in it.

use reqwest::{Client, ClientBuilder, Response, Url, redirect};

/// A client that follows neither proxy variables nor redirects.
pub(crate) fn client() -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .user_agent(concat!("espigon-edge/", env!("CARGO_PKG_VERSION")))
}

/// A setting that is a URL: `http` or `https`, without credentials.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        Err("the URL begins with http:// or https://".to_owned())
    } else if !url.username().is_empty() || url.password().is_some() {
        Err("no credentials in a URL: it is not kept like a secret".to_owned())
    } else {
        Ok(url)
    }
}

/// The body, as it comes, up to `limit` bytes, `None` if it is longer: the other side's word on its length counts for
/// nothing.
pub(crate) async fn body(mut response: Response, limit: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The library's own text says only which step failed.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Why no HTTP client could be made.
#[derive(Debug, thiserror::Error)]
#[error("{}", causes(.0))]
pub struct ClientError(#[from] reqwest::Error);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_urls_are_refused() {
        for bad in ["", "backend", "backend:3000", "ftp://backend", "http://", "http://u:p@b"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
