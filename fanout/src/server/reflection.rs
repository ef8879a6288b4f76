//! Reflection, for clients such as grpcurl: in both versions, since older ones ask for the older.

use proto::wire::{FILE_DESCRIPTOR_SET, publisher_server::PublisherServer};
use tonic::{server::NamedService, service::RoutesBuilder};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use crate::grpc::publish::PublisherService;

/// What is served on the publish API's port; the descriptors have links, too.
const SERVICES: [&str; 2] = [
    <PublisherServer<PublisherService> as NamedService>::NAME,
    <HealthServer<tonic_health::server::HealthService> as NamedService>::NAME,
];

pub(super) fn add(routes: &mut RoutesBuilder) -> Result<(), tonic_reflection::server::Error> {
    let builder = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        SERVICES.into_iter().fold(builder, Builder::with_service_name)
    };
    routes.add_service(builder().build_v1()?);
    routes.add_service(builder().build_v1alpha()?);
    Ok(())
}
