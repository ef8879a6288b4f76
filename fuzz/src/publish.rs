//! A publication of a backend, over HTTP or gRPC, into an empty node. It is taken if and only if room, key and body are
//! what `PROTOCOL.md` says, and then the history has it byte for byte; else there is an error of the API, and nothing.

use std::convert::Infallible;

use axum::{body::Body, http::Request, response::Response};
use http_body_util::BodyExt as _;
use prost::Message as _;
use proto::wire::{PublishManyRequest, PublishRequest, RemoveRequest};
use serde_json::{Value, value::RawValue};
use tower::{Service, ServiceExt as _};

use crate::{
    input::Input,
    names::{is_json, is_key, is_room, percent_decoded},
    node,
};

/// See the module. A byte for how it is sent, one for the length of a segment of a path, and what is sent.
///
/// # Panics
/// If it does not hold.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (way, length) = (input.byte(), input.byte());
    node::with(async |node| {
        let api = node.api();
        match way % 6 {
            0 => by_http(&api, input.bytes(length.into()), &[], input.rest()).await,
            1 => {
                let segment = input.bytes(length.into());
                let body = input.rest();
                by_http(&api, segment, body, &[b"{\"body\":", body, b"}"].concat()).await;
            }
            2 => by_grpc(&api, input.rest()).await,
            3 => {
                let room = String::from_utf8_lossy(input.bytes(length.into())).into_owned();
                let count = input.byte().into();
                let key = String::from_utf8_lossy(input.bytes(count)).into_owned();
                let body = input.rest().to_vec().into();
                let request = PublishRequest { room, key, body, ..PublishRequest::default() };
                by_grpc(&api, &request.encode_to_vec()).await;
            }
            4 => many(&api, input.rest()).await,
            _ => remove(&api, input.rest()).await,
        }
    });
}

/// The publish API of a node.
trait Api: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send> + Clone {}

impl<S> Api for S where S: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send> + Clone {}

/// `value`: of the request, if its frame is known to be right.
async fn by_http(api: &impl Api, segment: &[u8], value: &[u8], request: &[u8]) {
    let Ok(segment) = std::str::from_utf8(segment) else { return };
    if segment.is_empty() || segment.contains(['/', '?', '#']) {
        return;
    }
    let path = format!("/v1/rooms/{segment}/publications");
    // What is no path is for hyper to refuse.
    let Ok(post) = Request::post(&path).body(Body::from(request.to_vec())) else { return };
    let (status, answer) = send(api, post).await;
    let room = percent_decoded(segment).filter(|room| is_room(room));
    if status != 200 {
        assert!(room.is_none() || value.is_empty() || !is_json(value), "{path} {request:?} was refused: {answer:?}");
        check_error(status, &answer);
        if let Some(room) = room {
            assert_eq!(history(api, &room).await, Vec::<Stored>::new(), "refused and stored");
        }
        return;
    }
    let room = room.unwrap_or_else(|| panic!("{path} is no room"));
    assert!(is_json(request), "{request:?} is no JSON");
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(
        (answer["room"].as_str(), &answer["seq"], &answer["duplicate"]),
        (Some(&*room), &1.into(), &false.into())
    );
    let stored = history(api, &room).await;
    let [Stored { from, key, body }] = &*stored else { panic!("stored: {stored:?}") };
    assert!(is_json(body.as_bytes()) && !body.is_empty() && body.trim() == body, "{body:?}");
    assert!(String::from_utf8_lossy(request).contains(&**body), "{body:?} is not as sent");
    assert!(value.is_empty() || !is_json(value) || trimmed(value) == body.as_bytes(), "{body:?} for {value:?}");
    assert!(from == "@local" && is_key(key), "{from} {key:?}");
}

async fn by_grpc(api: &impl Api, message: &[u8]) {
    let status = call(api, "Publish", message).await;
    let Ok(PublishRequest { room, body, key, .. }) = PublishRequest::decode(message) else {
        return assert_ne!(status, 0, "what cannot be decoded was taken");
    };
    let good = is_room(&room) && is_key(&key) && is_json(&body);
    assert_eq!(status, if good { 0 } else { 3 }, "{room:?} {key:?} {body:?}");
    if is_room(&room) {
        let body = String::from_utf8_lossy(trimmed(&body)).into_owned();
        let expected = good.then(|| Stored { from: "@local".to_owned(), key, body });
        assert_eq!(history(api, &room).await, Vec::from_iter(expected));
    }
}

/// Rooms fail one by one; what is stored is stored in all that are good, once for each time they are named.
async fn many(api: &impl Api, message: &[u8]) {
    let status = call(api, "PublishMany", message).await;
    let Ok(PublishManyRequest { rooms, body, key, .. }) = PublishManyRequest::decode(message) else {
        return assert_ne!(status, 0, "what cannot be decoded was taken");
    };
    for room in rooms.iter().filter(|room| is_room(room)) {
        let good = status == 0 && is_json(&body) && is_key(&key);
        let named = rooms.iter().filter(|other| *other == room).count();
        let expected = if !good {
            0
        } else if key.is_empty() {
            named.min(100)
        } else {
            1
        };
        assert_eq!(history(api, room).await.len(), expected, "{room:?} {key:?}");
    }
}

async fn remove(api: &impl Api, message: &[u8]) {
    let status = call(api, "Remove", message).await;
    let Ok(RemoveRequest { user, room }) = RemoveRequest::decode(message) else {
        return assert_ne!(status, 0, "what cannot be decoded was taken");
    };
    let good = is_room(&user) && user.len() <= 195 && !user.starts_with('@') && (room.is_empty() || is_room(&room));
    assert_eq!(status, if good { 0 } else { 3 }, "{user:?} {room:?}");
}

/// The status of a call: that of gRPC.
async fn call(api: &impl Api, method: &str, message: &[u8]) -> u32 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let framed = [&[0], &length[..], message].concat();
    let request = Request::post(format!("/realtime.v1.Publisher/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(framed));
    let request = request.unwrap_or_else(|error| panic!("make a request: {error}"));
    let Ok(response) = api.clone().oneshot(request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap_or_else(|error| panic!("read an answer: {error}"));
    let status = head.headers.get("grpc-status").or_else(|| body.trailers()?.get("grpc-status"));
    let status = status.and_then(|status| status.to_str().ok()?.parse().ok());
    status.unwrap_or_else(|| panic!("a call without a status: {head:?}"))
}

#[derive(Debug, PartialEq)]
struct Stored {
    from: String,
    key: String,
    body: String,
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    publications: Vec<Publication<'a>>,
}

#[derive(serde::Deserialize)]
struct Publication<'a> {
    from: String,
    #[serde(default)]
    key: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// What a room has, as the API tells it.
async fn history(api: &impl Api, room: &str) -> Vec<Stored> {
    let encoded: String = room.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).map(char::from).collect();
    let request = Request::get(format!("/v1/rooms/{encoded}/publications?limit=100")).body(Body::empty());
    let (status, answer) = send(api, request.unwrap_or_else(|error| panic!("make a request: {error}"))).await;
    assert_eq!(status, 200, "{answer:?}");
    let page: Page<'_> = serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let stored = |Publication { from, key, body }| Stored { from, key, body: body.get().to_owned() };
    page.publications.into_iter().map(stored).collect()
}

async fn send(api: &impl Api, request: Request<Body>) -> (u16, Vec<u8>) {
    let Ok(response) = api.clone().oneshot(request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap_or_else(|error| panic!("read an answer: {error}"));
    (status, body.to_bytes().to_vec())
}

fn check_error(status: u16, answer: &[u8]) {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let code = answer["payload"]["code"].as_str().unwrap_or_default();
    assert_eq!(status, 400, "{answer}");
    assert!(matches!(code, "bad_room" | "bad_json" | "bad_message"), "{answer}");
}

fn trimmed(value: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let from = value.iter().take_while(|byte| space(byte)).count();
    let to = value.len() - value[from..].iter().rev().take_while(|byte| space(byte)).count();
    &value[from..to]
}

pub fn seeds() -> Vec<Vec<u8>> {
    let by_path = |way: u8, segment: &str, rest: &str| {
        let length = u8::try_from(segment.len()).unwrap_or(u8::MAX);
        [&[way, length], segment.as_bytes(), rest.as_bytes()].concat()
    };
    let mut seeds = Vec::new();
    for segment in
        ["a", "order-42", "two%20words", "%C3%A9%F0%9F%A6%80", "a%2Fb", "%20a", "a%00", "%ff", "a%25", "a:b{c}%"]
    {
        seeds.push(by_path(0, segment, r#"{"body":{"n":[1,2.5e3,null,"\u00e9"]},"key":"k"}"#));
        seeds.push(by_path(1, segment, r#" [true,{"a":"b"}] "#));
    }
    for request in [r#"{"body":1,"body":2}"#, r#"["a","k"]"#, r#"{"key":"k"}"#, r#"{"body":"\ud800"}"#, "1", ""] {
        seeds.push(by_path(0, "a", request));
    }
    for (room, key, body) in
        [("a", "", "1"), ("é 🦀", "k", "{}"), ("a ", "k", "[1,]"), ("", "", ""), ("a", "k", "\"\\u00e9\"")]
    {
        let request =
            PublishRequest { room: room.into(), key: key.into(), body: body.as_bytes().into(), ..Default::default() };
        seeds.push([&[2, 0], &*request.encode_to_vec()].concat());
        let lengths = [3, room.len(), key.len()].map(|length| u8::try_from(length).unwrap_or(u8::MAX));
        let [way, of_room, of_key] = lengths;
        seeds.push([&[way, of_room], room.as_bytes(), &[of_key], key.as_bytes(), body.as_bytes()].concat());
        let rooms = vec![room.to_owned(), "b".to_owned(), room.to_owned()];
        let many = PublishManyRequest { rooms, key: key.into(), body: body.as_bytes().into(), ..Default::default() };
        seeds.push([&[4, 0], &*many.encode_to_vec()].concat());
        let removal = RemoveRequest { user: room.into(), room: key.into() };
        seeds.push([&[5, 0], &*removal.encode_to_vec()].concat());
    }
    seeds
}
