# syntax=docker/dockerfile:1
# Images of jmqtd (the last stage, so the default) and of jmqt-lb (--target jmqt-lb):
#
#   docker build -t jmqtd .
#   docker build -t jmqt-lb --target jmqt-lb .
#
# deploy/ has compose files and the configuration in the image; docs/operations.md describes both.
# scripts/check-image checks this file without Docker.

ARG RUST_VERSION=1.94.0
ARG DEBIAN_VERSION=13.1

FROM rust:${RUST_VERSION}-slim-trixie AS build
WORKDIR /src
# What the programs are made of; .dockerignore leaves out the rest.
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin jmqtd --bin jmqt-lb && \
    install -D -m 0755 target/release/jmqtd target/release/jmqt-lb -t /out/bin && \
    install -d -m 0700 /out/data

FROM debian:${DEBIAN_VERSION}-slim AS base
# The CAs of the build stage, for connections to HTTP backends, databases and Redis with TLS: no package is installed here.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
STOPSIGNAL SIGTERM

FROM base AS jmqt-lb
COPY --from=build /out/bin/jmqt-lb /usr/local/bin/jmqt-lb
COPY deploy/load_balancer.conf /etc/jmqt-lb/load_balancer.conf
LABEL org.opencontainers.image.title="jmqt-lb" \
      org.opencontainers.image.description="TCP load balancer for JMQT and MQTT" \
      org.opencontainers.image.licenses="MIT"
EXPOSE 1883 8010 8012 8083 8019
# Its status page; the image has bash, and nothing else that speaks HTTP.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8019 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["jmqt-lb"]
CMD ["--config", "/etc/jmqt-lb/load_balancer.conf"]

FROM base AS jmqtd
COPY --from=build /out/bin/jmqtd /usr/local/bin/jmqtd
COPY deploy/jmqtd.conf jmqt-broker/rules.acl /etc/jmqtd/
# Messages and sessions. The root file system may be read-only.
COPY --from=build --chown=65532:65532 --chmod=0700 /out/data /var/lib/jmqtd
VOLUME /var/lib/jmqtd
WORKDIR /var/lib/jmqtd
LABEL org.opencontainers.image.title="jmqtd" \
      org.opencontainers.image.description="JMQT and MQTT broker" \
      org.opencontainers.image.licenses="MIT"
EXPOSE 1883 8010 8012 8083
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["jmqtd", "health", "--config", "/etc/jmqtd/jmqtd.conf"]
ENTRYPOINT ["jmqtd"]
CMD ["--config", "/etc/jmqtd/jmqtd.conf"]
