use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use futures_util::{SinkExt as _, StreamExt as _};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, client::IntoClientRequest as _},
};

use super::soon;

/// A WebSocket client that reads when asked for a message, and answers Pings while it does.
#[derive(Debug)]
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    /// Read, and not asked for yet.
    inbox: VecDeque<Message>,
    requests: u64,
    pub(crate) welcome: Value,
}

/// A message of the server: its text, as only that has each byte, and what it says.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Message {
    fn new(text: &str) -> Self {
        // Field by field, as a body may be more than a `Value` holds, such as 1e400. It is null then.
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let value = |field: &RawValue| serde_json::from_str(field.get()).unwrap_or_default();
        let json = fields.iter().map(|(name, field)| (name.clone(), value(field))).collect();
        Self { text: text.to_owned(), json: Value::Object(json) }
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.json["type"] == kind
    }

    pub(crate) fn seq(&self) -> u64 {
        self.json["seq"].as_u64().unwrap()
    }

    /// The body's bytes.
    pub(crate) fn body(&self) -> &str {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            body: &'a RawValue,
        }
        serde_json::from_str::<Envelope<'_>>(&self.text).unwrap().body.get()
    }
}

impl Client {
    /// Connects as browsers do, and waits for the welcome and the user's own room.
    pub(crate) async fn connect(edge: SocketAddr, token: &str) -> Self {
        let protocols = format!("realtime.v1, bearer.{token}");
        let mut client = Self::open(edge, &[(header::SEC_WEBSOCKET_PROTOCOL.as_str(), &protocols)]).await.unwrap();
        client.welcome = client.expect("welcome").await;
        let own = client.expect("joined").await;
        assert_eq!(own["room"], json!(format!("user:{}", client.welcome["user"].as_str().unwrap())));
        client
    }

    /// As [`Self::connect`], but joins no room by itself.
    pub(crate) async fn connect_apart(edge: SocketAddr, token: &str) -> Self {
        let mut client = Self::open_url(&format!("ws://{edge}/ws?auto_join=false&token={token}")).await;
        client.welcome = client.expect("welcome").await;
        client
    }

    /// Opens a socket with these headers. `Err`: the status and body of the refusal.
    pub(crate) async fn open(edge: SocketAddr, headers: &[(&str, &str)]) -> Result<Self, (StatusCode, Value)> {
        Self::open_at(edge, "", headers).await
    }

    /// Opens a socket with this query and these headers.
    pub(crate) async fn open_at(
        edge: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, (StatusCode, Value)> {
        Self::handshake(edge, &format!("ws://{edge}/ws?{query}"), headers).await
    }

    /// Opens a socket with nothing but this URL, which has the edge's address and a token.
    pub(crate) async fn open_url(url: &str) -> Self {
        let edge = url.trim_start_matches("ws://").split('/').next().unwrap().parse().unwrap();
        Self::handshake(edge, url, &[]).await.unwrap()
    }

    async fn handshake(edge: SocketAddr, url: &str, headers: &[(&str, &str)]) -> Result<Self, (StatusCode, Value)> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(edge).await.unwrap();
        match soon("the handshake", client_async(request, stream)).await {
            Ok((socket, _)) => Ok(Self { socket, inbox: VecDeque::new(), requests: 0, welcome: Value::Null }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err((response.status(), serde_json::from_slice(body).unwrap_or_default()))
            }
            Err(error) => panic!("handshake: {error}"),
        }
    }

    /// The next message of this type; others wait in the inbox.
    pub(crate) async fn next(&mut self, kind: &str) -> Message {
        if let Some(index) = self.inbox.iter().position(|message| message.is(kind)) {
            return self.inbox.remove(index).unwrap();
        }
        loop {
            let message = soon(kind, self.read()).await.unwrap_or_else(|code| panic!("{kind} awaited, closed: {code}"));
            if message.is(kind) {
                return message;
            }
            self.inbox.push_back(message);
        }
    }

    /// Its payload.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        self.next(kind).await.json["payload"].take()
    }

    pub(crate) async fn next_message(&mut self) -> Message {
        self.next("message").await
    }

    pub(crate) async fn next_messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.next_message().await);
        }
        messages
    }

    /// The next message of all.
    pub(crate) async fn next_of_all(&mut self) -> Message {
        match self.inbox.pop_front() {
            Some(message) => message,
            None => soon("a message", self.read()).await.unwrap_or_else(|code| panic!("closed: {code}")),
        }
    }

    /// What was read up to now, and not asked for.
    pub(crate) fn unasked(&self, kind: &str) -> usize {
        self.inbox.iter().filter(|message| message.is(kind)).count()
    }

    /// Sends a request with an id of its own, which is returned.
    pub(crate) async fn request(&mut self, kind: &str, payload: Value) -> String {
        self.requests += 1;
        let id = self.requests.to_string();
        self.send(&json!({"type": kind, "id": id, "payload": payload}).to_string()).await;
        id
    }

    /// The answer to the request of this id; other messages wait in the inbox.
    pub(crate) async fn answer(&mut self, id: &str) -> Message {
        let answers = |message: &Message| message.json["id"] == id;
        if let Some(index) = self.inbox.iter().position(answers) {
            return self.inbox.remove(index).unwrap();
        }
        loop {
            let read = soon("an answer", self.read()).await;
            let message = read.unwrap_or_else(|code| panic!("{id} unanswered, closed: {code}"));
            if answers(&message) {
                return message;
            }
            self.inbox.push_back(message);
        }
    }

    /// A request and its answer.
    pub(crate) async fn ask(&mut self, kind: &str, payload: Value) -> Message {
        let id = self.request(kind, payload).await;
        self.answer(&id).await
    }

    /// The payload of the error that answers this request.
    pub(crate) async fn refused(&mut self, kind: &str, payload: Value) -> Value {
        let mut answer = self.ask(kind, payload).await;
        assert!(answer.is("error"), "{}", answer.text);
        answer.json["payload"].take()
    }

    /// Sends a message of any kind, whether or not it keeps the rules.
    pub(crate) async fn send_raw(&mut self, message: tungstenite::Message) {
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.try_send(text).await.unwrap();
    }

    /// `Err`: nobody is there any more.
    pub(crate) async fn try_send(&mut self, text: &str) -> Result<(), tungstenite::Error> {
        self.socket.send(tungstenite::Message::text(text)).await
    }

    /// Joins, which must be allowed.
    pub(crate) async fn join(&mut self, room: &str) -> Value {
        self.request("join", json!({"room": room})).await;
        self.expect("joined").await
    }

    /// Broadcasts this JSON, written so, and waits until it is stored.
    pub(crate) async fn broadcast(&mut self, room: &str, body: &str) -> Value {
        self.requests += 1;
        let (id, room) = (self.requests, json!(room));
        self.send(&format!(r#"{{"type":"broadcast","id":"{id}","payload":{{"room":{room},"body":{body}}}}}"#)).await;
        self.expect("ack").await
    }

    /// Reads to the end, which must be a close frame with this code.
    pub(crate) async fn expect_close(&mut self, code: u16) {
        let closed = self.closed().await;
        assert!(closed.starts_with(&format!("{code} ")), "closed with {closed:?}, not {code}");
    }

    /// Reads to the end, and says how it closed, as `code reason`.
    pub(crate) async fn closed(&mut self) -> String {
        soon("close", async {
            loop {
                match self.read().await {
                    Ok(message) => self.inbox.push_back(message),
                    Err(closed) => return closed,
                }
            }
        })
        .await
    }

    /// All that it was told and was not asked for, up to the end, and how it closed.
    pub(crate) async fn rest(&mut self) -> String {
        let closed = self.closed().await;
        let texts = self.inbox.drain(..).map(|message| message.text);
        texts.chain([closed]).collect::<Vec<_>>().join("\n")
    }

    /// Whether it is open, and answers.
    pub(crate) async fn ping(&mut self) {
        self.send(r#"{"type":"ping"}"#).await;
        self.next("pong").await;
    }

    /// `Err`: how it closed, as `code reason`.
    async fn read(&mut self) -> Result<Message, String> {
        loop {
            match self.socket.next().await {
                Some(Ok(tungstenite::Message::Text(text))) => return Ok(Message::new(&text)),
                Some(Ok(tungstenite::Message::Close(Some(frame)))) => {
                    let closed = format!("{} {}", u16::from(frame.code), frame.reason);
                    // The close is answered, and the server ends the connection.
                    while let Some(Ok(_)) = self.socket.next().await {}
                    return Err(closed);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(format!("without a close frame: {error}")),
                None => return Err("without a close frame".to_owned()),
            }
        }
    }
}
