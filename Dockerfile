# syntax=docker/dockerfile:1
# One image for every process: `serve` (the default), `learn`, `index`, `train`, `backup` …
# Python 3.12 is the newest for which every locked package has a wheel (x86-64); nothing is compiled here.
ARG PYTHON_IMAGE=python:3.12.14-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# A virtual environment without pip: installers stay out of the final image.
RUN python -m venv --without-pip /opt/ltrr
COPY requirements-serve.lock /src/
RUN pip --python /opt/ltrr/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /src/requirements-serve.lock
COPY pyproject.toml README.md LICENSE /src/
COPY app /src/app
COPY services /src/services
# setuptools is locked like all packages, but not needed after the build. Bytecode is compiled here, because the container
# is read-only, and never checked against the sources, which do not change.
RUN pip --python /opt/ltrr/bin/python install --no-cache-dir --no-compile --disable-pip-version-check \
      --no-deps --no-build-isolation /src \
 && pip --python /opt/ltrr/bin/python uninstall --yes --quiet --disable-pip-version-check setuptools \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/ltrr/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="LTRR" \
      org.opencontainers.image.description="Search that learns from clicks what to retrieve and how to order it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A fixed user id, so that volumes keep their owner. Only /var/lib/ltrr and /tmp are written to.
RUN groupadd --gid 10001 ltrr \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ltrr \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/ltrr
COPY --from=build /opt/ltrr /opt/ltrr
ENV PATH=/opt/ltrr/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LTRR_DATA_DIR=/var/lib/ltrr \
    LTRR_HOST=0.0.0.0 \
    LTRR_LOG_FORMAT=json \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /var/lib/ltrr
VOLUME /var/lib/ltrr
USER 10001:10001
EXPOSE 8000 9464
STOPSIGNAL SIGTERM
# Liveness, not readiness: an engine outage must not cause a restart of this container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-I", "-c", "import http.client, os, sys; gateway = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('LTRR_PORT') or 8000), timeout=4); gateway.request('GET', '/livez'); sys.exit(gateway.getresponse().status != 200)"]
ENTRYPOINT ["ltrr"]
CMD ["serve"]
