//! The publish API over gRPC.

mod stream;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use proto::{
    PAGE_BYTES, Room,
    wire::{
        HistoryRequest, HistoryResponse, PublishError as WireError, PublishManyRequest, PublishManyResponse,
        PublishRequest, PublishResponse, PublishResult, RemoveRequest, RemoveResponse, publish_result,
        publisher_server::Publisher,
    },
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::status;
use crate::{
    auth::{Caller, Refused},
    broker::{PageLimit, ReadFrom, Receipt, StoreError},
    defaults::{API_DEADLINE, HOLD, MAX_ROOMS},
    publishing::{Accepted, Begun, Offer, PublishError, Publishing, publications},
};

/// Publications of one answer to `History`, at most and if not said.
const MAX_HISTORY: u32 = 1000;
const DEFAULT_HISTORY: u32 = 100;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct PublisherService {
    pub(crate) publishing: Publishing,
    pub(crate) drain: CancellationToken,
}

impl PublisherService {
    async fn publish_one(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let from = caller(&request)?;
        let (metadata, _, request) = request.into_parts();
        let begun = self.publishing.begin(traceparent(&request.traceparent, &metadata));
        let pending = self.held(&from, &request, begun).await;
        let receipt = settle(&self.publishing, pending).await?;
        Ok(Response::new(response(receipt)))
    }

    async fn publish_many_rooms(
        &self,
        request: Request<PublishManyRequest>,
    ) -> Result<Response<PublishManyResponse>, Status> {
        let from = caller(&request)?;
        let (metadata, _, PublishManyRequest { rooms, body, key, traceparent: trace }) = request.into_parts();
        if rooms.len() > MAX_ROOMS {
            return Err(status::invalid(format!("at most {MAX_ROOMS} rooms in one call")));
        }
        // Of all together.
        let until = Instant::now() + HOLD;
        let mut offered = Vec::with_capacity(rooms.len());
        for room in rooms {
            let begun = self.publishing.begin(traceparent(&trace, &metadata));
            let (body, key) = (body.clone(), key.clone());
            let request = PublishRequest { room, body, key, traceparent: String::new() };
            offered.push(self.publishing.publish_held(offer(&from, &request, begun), until).await);
        }
        let mut results = Vec::with_capacity(offered.len());
        for pending in offered {
            results.push(result(settle(&self.publishing, pending).await));
        }
        Ok(Response::new(PublishManyResponse { results }))
    }

    async fn remove_user(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let RemoveRequest { user, room } = request.into_inner();
        self.publishing.remove(&user, &room).await?;
        Ok(Response::new(RemoveResponse {}))
    }

    async fn held(&self, from: &Caller, request: &PublishRequest, begun: Begun) -> Result<Accepted, PublishError> {
        let until = begun.since + HOLD;
        self.publishing.publish_held(offer(from, request, begun), until).await
    }

    async fn read(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        let HistoryRequest { room, after, limit, last } = request.into_inner();
        let room = Room::try_new(&room).map_err(PublishError::from)?;
        let limit = if limit == 0 { DEFAULT_HISTORY } else { limit.min(MAX_HISTORY) };
        let (from, items) = match after {
            _ if last > 0 => (ReadFrom::Last(last.min(MAX_HISTORY).into()), last.min(MAX_HISTORY)),
            Some(after) => (ReadFrom::After(after.into()), limit),
            None => (ReadFrom::Oldest, limit),
        };
        let limit = PageLimit { items: usize::try_from(items).unwrap_or(1), bytes: PAGE_BYTES };
        let page = self.publishing.read(room, from.clone(), limit).await?.of_present_epoch(&from);
        Ok(Response::new(HistoryResponse {
            publications: publications(&page).collect(),
            position: Some(page.position.into()),
            complete: page.complete,
        }))
    }
}

#[tonic::async_trait]
impl Publisher for PublisherService {
    type PublishStreamStream = Pin<Box<dyn Stream<Item = Result<PublishResult, Status>> + Send>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.publish_one(request).await
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let from = caller(&request)?;
        let stream = stream::results(self.publishing.clone(), from, request.into_inner(), self.drain.clone());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn publish_many(
        &self,
        request: Request<PublishManyRequest>,
    ) -> Result<Response<PublishManyResponse>, Status> {
        self.publish_many_rooms(request).await
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        self.read(request).await
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        self.remove_user(request).await
    }
}

/// Whom the door let in.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    Ok(request.extensions().get::<Caller>().cloned().ok_or(Refused::Missing)?)
}

/// The W3C trace context of the request, else of its call.
fn traceparent<'a>(of_request: &'a str, metadata: &'a MetadataMap) -> &'a str {
    let of_call = || metadata.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if of_request.is_empty() { of_call() } else { of_request }
}

fn offer<'a>(from: &Caller, request: &'a PublishRequest, begun: Begun) -> Offer<'a> {
    Offer {
        room: &request.room,
        from: Arc::clone(&from.name),
        share: from.share.clone(),
        body: request.body.clone(),
        key: &request.key,
        edge_key_ttl: None,
        unless: &[],
        begun,
        deadline: API_DEADLINE,
    }
}

/// Waits for the receipt, and counts it.
async fn settle(
    publishing: &Publishing,
    pending: Result<impl Future<Output = Result<Receipt, StoreError>>, PublishError>,
) -> Result<Receipt, PublishError> {
    let result = pending?.await;
    publishing.metrics.published(&result);
    result.map_err(PublishError::Store)
}

fn response(receipt: Receipt) -> PublishResponse {
    PublishResponse { position: Some(receipt.position.into()), duplicate: receipt.duplicate }
}

fn result(result: Result<Receipt, PublishError>) -> PublishResult {
    let result = match result {
        Ok(receipt) => publish_result::Result::Ok(response(receipt)),
        Err(error) => {
            let status = Status::from(error);
            publish_result::Result::Error(WireError {
                code: status.code().into(),
                message: status.message().to_owned(),
            })
        }
    };
    PublishResult { result: Some(result) }
}

#[cfg(test)]
mod tests;
