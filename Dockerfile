# Not run by its authors on a Docker engine (none at hand): see docs/operations.md.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# sqlx checks nothing at build time here: the statements are text, so no database is needed.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked && cp target/release/chartgate /usr/local/bin/chartgate

FROM debian:bookworm-slim
# tini reaps what a process leaves behind and passes signals on; curl is for the health check of compose.yaml.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin chartgate \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/chartgate
COPY --from=build /usr/local/bin/chartgate /usr/local/bin/chartgate
USER 10001
# The audit log's signing key is made here by the sweeper: keep it in a volume.
ENV CHARTGATE_LISTEN=0.0.0.0:8080 CHARTGATE_DATA_DIR=/var/lib/chartgate
EXPOSE 8080
# SIGTERM drains: running steps get 30 s (compose.yaml gives it 45 s before it kills).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/chartgate"]
CMD ["serve"]
