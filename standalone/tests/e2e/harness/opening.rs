use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use super::soon;

/// A request for a socket in the making, valid unless told otherwise, for what no WebSocket library would send or show.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    edge: SocketAddr,
    from: IpAddr,
    method: &'static str,
    target: String,
    headers: BTreeMap<String, String>,
}

/// What came back: the head, and the body of a refusal.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// As it was sent.
    pub(crate) head: String,
}

impl Opening {
    pub(crate) fn at(edge: SocketAddr) -> Self {
        let from = Ipv4Addr::LOCALHOST.into();
        let opening = Self { edge, from, method: "GET", target: "/ws".to_owned(), headers: BTreeMap::new() };
        let opening = opening.with("host", edge.to_string()).with("connection", "Upgrade").with("upgrade", "websocket");
        opening.with("sec-websocket-version", "13").with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    pub(crate) fn with(mut self, header: &str, value: impl Into<String>) -> Self {
        self.headers.insert(header.to_owned(), value.into());
        self
    }

    pub(crate) fn without(mut self, header: &str) -> Self {
        self.headers.remove(header);
        self
    }

    /// From another address of this machine.
    pub(crate) fn from(mut self, address: [u8; 4]) -> Self {
        self.from = address.into();
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn protocols(self, list: &str) -> Self {
        self.with("sec-websocket-protocol", list)
    }

    pub(crate) fn query(mut self, query: &str) -> Self {
        self.target = format!("/ws?{query}");
        self
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub(crate) async fn send(&self) -> Answered {
        let mut request = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.push_str("\r\n");
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.from, 0).into()).unwrap();
        let mut stream = socket.connect(self.edge).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        let end = loop {
            if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(soon("the answer", stream.read_buf(&mut read)).await.unwrap(), 0, "closed in the head");
        };
        let mut body = read.split_off(end);
        let head = String::from_utf8(read).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        while body.len() < length {
            assert_ne!(soon("the body", stream.read_buf(&mut body)).await.unwrap(), 0, "closed in the body");
        }
        body.truncate(length);
        Answered { status, headers, body: serde_json::from_slice(&body).unwrap_or_default(), head }
    }

    /// The status and code of the refusal, which must be as the page has it: with `Retry-After` if it is 429 or 503, and
    /// only then.
    pub(crate) async fn refused(&self) -> (u16, String) {
        let answered = self.send().await;
        let Answered { status, headers, body, .. } = &answered;
        let object = |value: &Value, names: &[&str]| {
            value.as_object().is_some_and(|object| object.keys().map(String::as_str).eq(names.iter().copied()))
        };
        assert!(object(body, &["payload", "type"]) && object(&body["payload"], &["code", "error"]), "{answered:?}");
        assert_eq!(body["type"], "error", "{answered:?}");
        assert!(body["payload"]["error"].as_str().is_some_and(|text| !text.is_empty()), "{answered:?}");
        assert_eq!(headers["content-type"], "application/json", "{answered:?}");
        let retry_after = headers.get("retry-after").map(|after| after.parse::<u32>().unwrap());
        assert_eq!(retry_after.is_some(), matches!(status, 429 | 503), "{answered:?}");
        (*status, body["payload"]["code"].as_str().unwrap().to_owned())
    }
}
