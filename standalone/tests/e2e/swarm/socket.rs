use std::{borrow::Cow, net::SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, Utf8Bytes, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

/// Small, as there are thousands of them.
const READ_BUFFER: usize = 4 * 1024;

/// A socket to an edge, which parses no more than it must.
#[derive(Debug)]
pub(crate) struct Socket(WebSocketStream<TcpStream>);

/// A message of the server, read as far as all have in common. Bodies and payloads are left as they are.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    #[serde(borrow, default)]
    pub(crate) id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) room: Cow<'a, str>,
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(borrow, default)]
    pub(crate) epoch: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) from: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) payload: Option<&'a RawValue>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What it says, by its kind.
    pub(crate) fn payload<T: Deserialize<'a>>(&self) -> T {
        let text = self.payload.map_or("null", RawValue::get);
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Socket {
    /// Connects, and joins none of the automatic rooms. `Err`: nobody there, or refused.
    pub(crate) async fn open(edge: SocketAddr, token: &str) -> Result<Self, String> {
        let mut request = format!("ws://{edge}/ws?auto_join=false").into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("realtime.v1"));
        let stream = TcpStream::connect(edge).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
        let opened = client_async_with_config(request, stream, Some(config)).await;
        opened.map(|(socket, _)| Self(socket)).map_err(|error| error.to_string())
    }

    /// Nobody is told if it does not arrive: reading will say so.
    pub(crate) async fn send(&mut self, text: String) {
        let _ = self.0.send(Message::text(text)).await;
    }

    /// The next message. `Err`: the close code, or none if it broke.
    pub(crate) async fn next(&mut self) -> Result<Utf8Bytes, Option<u16>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Close(frame))) => {
                    // The close is answered, and the server ends the connection.
                    while let Some(Ok(_)) = self.0.next().await {}
                    return Err(frame.map(|frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Ends without a goodbye: by a reset, if abrupt, else with what was sent still arriving.
    pub(crate) fn cut(self, abrupt: bool) {
        if abrupt {
            let _ = self.0.get_ref().set_zero_linger();
        }
    }
}
