//! The publish API as JSON over HTTP/1.1.

mod envelope;
mod error;
mod report;
mod streams;
mod visitor;

use std::{future::ready, sync::Arc};

use axum::{
    BoxError, Json, Router,
    body::{Body, Bytes, HttpBody},
    extract::{
        DefaultBodyLimit, FromRequest as _, Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures_util::{FutureExt as _, future::Either};
use proto::{PAGE_BYTES, Position, Room, RoomError};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use self::error::HttpError;
pub(crate) use self::streams::Streams;
use crate::{
    attachments::Attachments,
    auth::{ApiKeys, Caller, Right},
    broker::{PageLimit, ReadFrom},
    console,
    defaults::{API_DEADLINE, HOLD},
    publishing::{Offer, PublishError, Publishing},
    rates::Rates,
};

/// What a request holds beside its body's value: names, a key, white space.
const ROOM_FOR_FRAME: usize = 4 << 10;

/// Most and default publications of one answer.
const MAX_LIMIT: u64 = 1000;
const DEFAULT_LIMIT: u64 = 100;

/// What the handlers need. A clone is many counters to raise: requests share one.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) node: Arc<str>,
    pub(crate) keys: ApiKeys,
    pub(crate) publishing: Publishing,
    pub(crate) attachments: Attachments,
    pub(crate) rates: Rates,
    pub(crate) streams: Streams,
    /// Ends what would go on for ever.
    pub(crate) drain: CancellationToken,
}

impl Api {
    /// Comes first: a request that is refused is answered by its head, and the rest of it is not read.
    fn admit(&self, request: &Request<Body>, right: Right) -> Result<Caller, HttpError> {
        Ok(self.keys.admit(request, right)?)
    }

    fn counted(&self, method: &'static str, result: Result<Response, HttpError>) -> Response {
        let code = result.as_ref().map_or_else(HttpError::code, |_| "ok");
        self.publishing.metrics.called(method, code);
        result.unwrap_or_else(HttpError::into_response)
    }
}

/// All of it as a service. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct JsonService {
    api: Arc<Api>,
    router: Router,
}

impl JsonService {
    pub(crate) fn new(api: Api) -> Self {
        let api = Arc::new(api);
        let router = Router::new()
            .merge(console::router())
            .route("/v1/rooms/{room}/publications", post(publish).get(history))
            .route("/v1/rooms/{room}", get(room))
            .route("/v1/status", get(status))
            .route("/v1/status/stream", get(status_stream))
            .route("/v1/remove", post(remove))
            .fallback(|| async { HttpError::not_found().into_response() })
            .method_not_allowed_fallback(|| async { HttpError::method_not_allowed().into_response() })
            .with_state(Arc::clone(&api));
        Self { api, router }
    }

    /// Judges who asks, and limits the body, before the router: as layers of it they would cost each request more boxes
    /// and clones than a publication does.
    pub(crate) fn call<B>(&self, mut request: Request<B>) -> impl Future<Output = Response> + use<B>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if self.api.keys.is_empty() && visitor::is_strange(request.headers()) {
            return Either::Left(ready(HttpError::strange_page().into_response()));
        }
        DefaultBodyLimit::max(self.api.publishing.max_body + ROOM_FOR_FRAME).apply(&mut request);
        let answer = self.router.clone().call(request);
        Either::Right(answer.map(|result| match result {
            Ok(response) => response,
            Err(never) => match never {},
        }))
    }
}

/// Reads a request's body.
async fn body(request: Request<Body>) -> Result<Bytes, BytesRejection> {
    Bytes::from_request(request, &()).await
}

/// `{"body":…,"key":…}`. The body's bytes are kept as they are.
#[derive(Debug, Deserialize)]
struct Publish<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
    #[serde(default)]
    key: Option<String>,
}

async fn publish(
    State(api): State<Arc<Api>>,
    room: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Response {
    let result = match room {
        Ok(Path(room)) => publish_one(&api, &room, request).await,
        Err(_) => Err(HttpError::bad_path()),
    };
    api.counted("POST publications", result)
}

async fn publish_one(api: &Api, room: &str, request: Request<Body>) -> Result<Response, HttpError> {
    let caller = api.admit(&request, Right::Publish)?;
    let traceparent = request.headers().get("traceparent").cloned();
    let request = body(request).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => PublishError::TooLarge(api.publishing.max_body).into(),
        _ => HttpError::bad_request("the request's body could not be read"),
    })?;
    let Publish { body, key } =
        serde_json::from_slice(&request).map_err(|error| HttpError::bad_json(&error, r#"{"body":…,"key":…}"#))?;
    let traceparent = traceparent.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let begun = api.publishing.begin(traceparent);
    let until = begun.since + HOLD;
    let offer = Offer {
        room,
        from: caller.name,
        share: caller.share,
        body: request.slice_ref(body.get().as_bytes()),
        key: key.as_deref().unwrap_or_default(),
        edge_key_ttl: None,
        unless: &[],
        begun,
        deadline: API_DEADLINE,
    };
    let pending = api.publishing.publish_held(offer, until).await?;
    let result = pending.await;
    api.publishing.metrics.published(&result);
    let receipt = result.map_err(PublishError::from)?;
    let Position { epoch, seq } = receipt.position;
    Ok(Json(json!({"room": room, "epoch": epoch.as_str(), "seq": seq, "duplicate": receipt.duplicate})).into_response())
}

#[derive(Debug, Deserialize)]
struct HistoryQuery {
    epoch: Option<String>,
    after: Option<u64>,
    limit: Option<u64>,
    last: Option<u64>,
}

async fn history(
    State(api): State<Arc<Api>>,
    room: Result<Path<String>, PathRejection>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
    request: Request<Body>,
) -> Response {
    let result = match (room, query) {
        (Ok(Path(room)), Ok(Query(query))) => read(&api, &room, query, request).await,
        (Err(_), _) => Err(HttpError::bad_path()),
        (_, Err(_)) => Err(HttpError::bad_request("epoch, after, limit and last: a string and three numbers")),
    };
    api.counted("GET publications", result)
}

async fn read(api: &Api, room: &str, query: HistoryQuery, request: Request<Body>) -> Result<Response, HttpError> {
    api.admit(&request, Right::Read)?;
    let name = Room::try_new(room).map_err(PublishError::from)?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let (from, items) = match (query.last, query.epoch, query.after) {
        (Some(last), None, None) => (ReadFrom::Last(last.min(MAX_LIMIT)), last.clamp(1, MAX_LIMIT)),
        (None, None, None) => (ReadFrom::Oldest, limit),
        (None, epoch, Some(after)) => (ReadFrom::After(Position::new(&epoch.unwrap_or_default(), after)), limit),
        _ => return Err(HttpError::bad_request("either epoch and after, or last, or none of them")),
    };
    let limit = PageLimit { items: usize::try_from(items).unwrap_or(1), bytes: PAGE_BYTES };
    let page = api.publishing.read(name, from.clone(), limit).await.map_err(HttpError::from)?.of_present_epoch(&from);
    Ok(envelope::history(room, &page))
}

async fn room(
    State(api): State<Arc<Api>>,
    room: Result<Path<String>, PathRejection>,
    request: Request<Body>,
) -> Response {
    let result = match room {
        Ok(Path(room)) => room_state(&api, &room, request).await,
        Err(_) => Err(HttpError::bad_path()),
    };
    api.counted("GET room", result)
}

async fn room_state(api: &Api, room: &str, request: Request<Body>) -> Result<Response, HttpError> {
    api.admit(&request, Right::Read)?;
    let name = Room::try_new(room).map_err(PublishError::from)?;
    let Position { epoch, seq } = api.publishing.position(name).await.map_err(HttpError::from)?;
    let members = report::members(&api.attachments, room);
    Ok(Json(json!({"room": room, "epoch": epoch.as_str(), "seq": seq, "members": members})).into_response())
}

async fn status(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let result = api.admit(&request, Right::Read).map(|_| Json(report::status(&api)).into_response());
    api.counted("GET status", result)
}

async fn status_stream(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let result = api.admit(&request, Right::Read).and_then(|_| api.streams.open(&api));
    api.counted("GET status/stream", result)
}

/// `{"user":…,"room":…}`, without a room for all of the user's connections.
#[derive(Debug, Deserialize)]
struct Remove {
    user: String,
    #[serde(default)]
    room: Option<String>,
}

async fn remove(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let result = remove_user(&api, request).await;
    api.counted("POST remove", result)
}

async fn remove_user(api: &Api, request: Request<Body>) -> Result<Response, HttpError> {
    api.admit(&request, Right::Publish)?;
    let request = body(request).await.map_err(|_| HttpError::bad_request("the request's body could not be read"))?;
    let Remove { user, room } =
        serde_json::from_slice(&request).map_err(|error| HttpError::bad_json(&error, r#"{"user":…,"room":…}"#))?;
    // Nobody is removed altogether for want of a room's name.
    if room.as_deref() == Some("") {
        return Err(PublishError::from(RoomError::Empty).into());
    }
    api.publishing.remove(&user, room.as_deref().unwrap_or_default()).await?;
    Ok(Json(json!({})).into_response())
}

#[cfg(test)]
mod tests;
