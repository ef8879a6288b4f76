# Two images, one build: `docker build --target edge .`, `docker build --target fanout .`

FROM rust:1.95.0-slim-bookworm AS build
# The image's own toolchain, without what rust-toolchain.toml wants for development.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
# Dependencies stay built between builds, in caches that are no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p edge -p fanout && \
    cp target/release/edge target/release/fanout /usr/local/bin/

# What both images have: certificates to verify a backend by, and a user that may nothing.
FROM debian:bookworm-20251229-slim AS tier
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
LABEL org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM tier AS fanout
LABEL org.opencontainers.image.title="espigon-fanout" \
      org.opencontainers.image.description="Keeps rooms' histories and announces what is published to them"
COPY --from=build /usr/local/bin/fanout /usr/local/bin/fanout
EXPOSE 7000 7100 9101
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["fanout", "healthcheck"]
ENTRYPOINT ["fanout"]

FROM tier AS edge
LABEL org.opencontainers.image.title="espigon-edge" \
      org.opencontainers.image.description="Holds browsers' sockets; meets the fanout tier over gRPC"
COPY --from=build /usr/local/bin/edge /usr/local/bin/edge
EXPOSE 8080 9100
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["edge", "healthcheck"]
ENTRYPOINT ["edge"]
