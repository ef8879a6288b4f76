use std::fmt;

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use proto::{
    MAX_LINK_MESSAGE_BYTES,
    wire::{EdgeMessage, FanoutMessage, link_client::LinkClient},
};
use service::settings::Secret;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{LinkError, in_time};
use crate::defaults::SILENCE;

/// HTTP/2 windows: what a slow edge may have under way unread, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What a node sends on a link.
pub type Incoming = BoxStream<'static, Result<FanoutMessage, Status>>;

/// How links are made. Edges that ship make them over gRPC.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Opens a link to the node at the address; what comes out of `outgoing` goes to it, in order.
    fn attach(
        &self,
        address: &str,
        token: Option<&Secret>,
        outgoing: mpsc::Receiver<EdgeMessage>,
    ) -> BoxFuture<'static, Result<Incoming, LinkError>>;
}

/// A gRPC stream on a connection of its own.
#[derive(Debug)]
pub struct Grpc;

impl Transport for Grpc {
    fn attach(
        &self,
        address: &str,
        token: Option<&Secret>,
        outgoing: mpsc::Receiver<EdgeMessage>,
    ) -> BoxFuture<'static, Result<Incoming, LinkError>> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let token = token.map(bearer).transpose();
        async move {
            let endpoint = endpoint?
                .connect_timeout(SILENCE)
                .tcp_nodelay(true)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .http2_adaptive_window(false);
            let mut client: LinkClient<Channel> = LinkClient::new(endpoint.connect().await?)
                .max_decoding_message_size(MAX_LINK_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_LINK_MESSAGE_BYTES);
            let mut request = Request::new(ReceiverStream::new(outgoing));
            if let Some(bearer) = token? {
                request.metadata_mut().insert("authorization", bearer);
            }
            Ok(in_time(client.attach(request)).await??.into_inner().boxed())
        }
        .boxed()
    }
}

fn bearer(token: &Secret) -> Result<MetadataValue<Ascii>, LinkError> {
    let mut bearer: MetadataValue<Ascii> =
        format!("Bearer {}", token.expose()).parse().map_err(|_| LinkError::Token)?;
    bearer.set_sensitive(true);
    Ok(bearer)
}
