//! Who may call what over gRPC. A call is judged by the head of its request, before tonic reads the message, and counted by
//! the head of its answer.

use std::{future::ready, sync::Arc};

use axum::{
    BoxError, Router,
    body::{Body, Bytes, HttpBody},
    http::Request,
    response::Response,
};
use futures_util::{FutureExt as _, future::Either};
use proto::wire::publisher_server::PublisherServer;
use tonic::{Status, server::NamedService};
use tonic_health::pb::health_server::HealthServer;
use tower::Service as _;

use super::{publish::PublisherService, status};
use crate::{
    auth::{ApiKeys, Right},
    metrics::Metrics,
};

const PUBLISHER: &str = <PublisherServer<PublisherService> as NamedService>::NAME;
const HEALTH: &str = <HealthServer<tonic_health::server::HealthService> as NamedService>::NAME;

/// The methods of the publisher.
const METHODS: [(&str, Right); 5] = [
    ("Publish", Right::Publish),
    ("PublishStream", Right::Publish),
    ("PublishMany", Right::Publish),
    ("Remove", Right::Publish),
    ("History", Right::Read),
];

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Method {
    /// Of the metric, if its calls are counted.
    label: Option<&'static str>,
    /// `None`: no key is needed.
    right: Option<Right>,
}

impl Method {
    fn of(path: &str) -> Self {
        let (service, method) = path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or_default();
        match service {
            // Probes have no key.
            HEALTH => Self { label: None, right: None },
            PUBLISHER => {
                let known = METHODS.into_iter().find(|(name, _)| *name == method);
                Self {
                    label: known.map(|(name, _)| name),
                    right: Some(known.map_or(Right::Publish, |(_, right)| right)),
                }
            }
            // Reflection, and what is not there: all that the publish API tells needs a key.
            _ => Self { label: None, right: Some(Right::Read) },
        }
    }
}

/// The services behind it. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct GrpcService {
    router: Router,
    keys: ApiKeys,
    metrics: Arc<Metrics>,
}

impl GrpcService {
    pub(crate) fn new(router: Router, keys: ApiKeys, metrics: Arc<Metrics>) -> Self {
        Self { router, keys, metrics }
    }

    /// No layer of the router, as that would cost each call more boxes and clones.
    pub(crate) fn call<B>(&self, mut request: Request<B>) -> impl Future<Output = Response> + use<B>
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let method = Method::of(request.uri().path());
        match method.right.map(|right| self.keys.admit(&request, right)) {
            Some(Err(refused)) => {
                let status = Status::from(refused);
                self.metrics.called(method.label.unwrap_or("other"), status::label(status.code()));
                return Either::Left(ready(status.into_http()));
            }
            Some(Ok(caller)) => _ = request.extensions_mut().insert(caller),
            None => {}
        }
        let metrics = Arc::clone(&self.metrics);
        let answer = self.router.clone().call(request);
        Either::Right(answer.map(move |result| {
            let mut response: Response<Body> = match result {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let code = status::of_answer(response.headers_mut());
            if let Some(label) = method.label {
                metrics.called(label, status::label(code));
            }
            response
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_has_its_right_and_nothing_but_health_is_open() {
        let of = |path: &str| Method::of(path).right;
        for (name, right) in METHODS {
            let method = Method::of(&format!("/realtime.v1.Publisher/{name}"));
            assert_eq!(method, Method { label: Some(name), right: Some(right) });
        }
        assert_eq!(of("/grpc.health.v1.Health/Watch"), None);
        assert_eq!(of("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), Some(Right::Read));
        assert_eq!(of("/realtime.v1.Publisher/Unheard"), Some(Right::Publish));
        for strange in ["", "/", "//", "*", "/grpc.health.v1.Health", "grpc.health.v1.Health/Check"] {
            assert_eq!(of(strange), Some(Right::Read), "{strange}");
        }
    }

    #[test]
    fn the_methods_are_those_of_the_contract() {
        let contract = include_str!("../../../proto/proto/realtime/v1/publisher.proto");
        let publisher = contract.split("service Publisher").nth(1).unwrap().split("\n}").next().unwrap();
        let rest = publisher.split("rpc ").skip(1);
        let mut names: Vec<_> = rest.map(|rest| rest.split('(').next().unwrap().trim()).collect();
        names.sort_unstable();
        let mut known = METHODS.map(|(name, _)| name);
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
