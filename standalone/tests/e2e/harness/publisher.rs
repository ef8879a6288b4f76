use http::StatusCode;
use proto::wire::{PublishRequest, PublishResponse, publisher_client::PublisherClient};
use serde_json::Value;
use tonic::transport::Channel;

use super::Fanout;

impl Fanout {
    pub(crate) async fn grpc(&self) -> PublisherClient<Channel> {
        PublisherClient::connect(format!("http://{}", self.api)).await.unwrap()
    }

    /// Publishes by gRPC.
    pub(crate) async fn publish(&self, room: &str, body: &str) -> Result<PublishResponse, tonic::Status> {
        self.grpc().await.publish(publish_body(room, body)).await.map(tonic::Response::into_inner)
    }

    /// Publishes by HTTP, with this JSON, written so.
    pub(crate) async fn post(&self, room: &str, body: &str) -> (StatusCode, Value) {
        let url = format!("http://{}/v1/rooms/{room}/publications", self.api);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(url).header("content-type", "application/json").body(format!(r#"{{"body":{body}}}"#));
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }
}

pub(crate) fn publish_body(room: &str, body: &str) -> PublishRequest {
    PublishRequest { room: room.to_owned(), body: body.to_owned().into(), ..PublishRequest::default() }
}
