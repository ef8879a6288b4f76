use std::fmt;

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use hyper_util::rt::TokioIo;
use proto::{
    MAX_LINK_MESSAGE_BYTES,
    wire::{EdgeMessage, FanoutMessage, link_client::LinkClient},
};
use service::{settings::Secret, tls::ClientTls};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{LinkError, in_time};
use crate::{defaults::SILENCE, upstream::discovery::Discovery};

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
pub struct Grpc {
    tls: Option<ClientTls>,
    /// Whom nodes must prove to be, where their addresses are those of a DNS name; else the host of each address.
    name: Option<String>,
}

impl Grpc {
    pub fn new(discovery: &Discovery, tls: Option<ClientTls>) -> Self {
        let name = match discovery {
            Discovery::Dns(name) => Some(host(name)),
            Discovery::List(_) => None,
        };
        Self { tls, name }
    }
}

/// Of `host:port`, as discovery has checked.
fn host(address: &str) -> String {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned()
}

async fn connect(endpoint: Endpoint, address: String, tls: Option<(ClientTls, String)>) -> Result<Channel, LinkError> {
    let Some((tls, name)) = tls else { return Ok(endpoint.connect().await?) };
    let connector = tower::service_fn(move |_| {
        let (tls, name, address) = (tls.clone(), name.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            tls.connect(stream, &name).await.map(TokioIo::new)
        }
    });
    Ok(endpoint.connect_with_connector(connector).await?)
}

impl Transport for Grpc {
    fn attach(
        &self,
        address: &str,
        token: Option<&Secret>,
        outgoing: mpsc::Receiver<EdgeMessage>,
    ) -> BoxFuture<'static, Result<Incoming, LinkError>> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let name = || self.name.clone().unwrap_or_else(|| host(address));
        let (tls, address) = (self.tls.clone().map(|tls| (tls, name())), address.to_owned());
        let token = token.map(bearer).transpose();
        async move {
            let endpoint = endpoint?
                .connect_timeout(SILENCE)
                .tcp_nodelay(true)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .http2_adaptive_window(false);
            let mut client: LinkClient<Channel> = LinkClient::new(connect(endpoint, address, tls).await?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_prove_to_be_the_name_they_were_found_by() {
        for (found, name) in
            [("dns://fanout-headless:7000", Some("fanout-headless")), ("http://a.example:7000,http://[::1]:7001", None)]
        {
            assert_eq!(Grpc::new(&Discovery::parse(found).unwrap(), None).name.as_deref(), name);
        }
        assert_eq!((host("a.example:7000"), host("[::1]:7000")), ("a.example".to_owned(), "::1".to_owned()));
    }
}
