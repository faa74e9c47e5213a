# Two images: `service` (the default target) holds the service and its models, `training` what makes new models.
# Needs Docker Engine 25 or later. `docker build --target sbom --output sbom .` writes sbom/sbom.cdx.json instead.
#
#   PYTHON_IMAGE     the base; to have its digest checked, python:3.11-slim-bookworm@sha256:...
#   VARIANT          of the service: `torch` has both engines, `slim` ONNX Runtime alone and less than half the size
#   TORCH_INDEX_URL  package index beside PyPI; set empty, PyPI's own torch is taken, which brings CUDA on Linux
#   TORCH            requirement for torch, for instance torch==2.13.0; `training` needs one that fits torchvision

ARG VARIANT=torch
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# The requirements as lists, so that only a changed dependency, and not any change of pyproject.toml, installs anew.
FROM ${PYTHON_IMAGE} AS requirements
WORKDIR /requirements
COPY pyproject.toml requirements.lock ./
RUN python -c "import pathlib, tomllib; \
project = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']; \
pathlib.Path('torch.txt').write_text('\n'.join(project['optional-dependencies']['torch'])); \
pathlib.Path('training.txt').write_text('\n'.join(project['optional-dependencies']['train']))" && \
    sed --quiet 's/^\([^ #].*==.*\) \\$/\1/p' requirements.lock >versions.txt


FROM ${PYTHON_IMAGE} AS packages-slim
# Wheels only: there is no compiler here. The environment has no pip of its own; the base image's pip fills it, with
# files of the digests in requirements.lock and no others. What comes on top of it below, PyTorch and what training
# needs, has no lock: where it comes from is the builder's choice.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=requirements,source=/requirements/requirements.lock,target=/tmp/requirements.lock \
    python -m venv --without-pip /opt/venv && \
    pip --python /opt/venv/bin/python install --only-binary :all: --require-hashes --requirement /tmp/requirements.lock
# The root file system may be read-only: no byte code is written, and what wants a home finds it under /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=wardrobe
WORKDIR /wardrobe


FROM packages-slim AS packages-torch
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG TORCH=torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=requirements,source=/requirements,target=/tmp/requirements \
    pip --python /opt/venv/bin/python install --only-binary :all: \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "$TORCH" \
        --constraint /tmp/requirements/versions.txt --requirement /tmp/requirements/torch.txt


FROM packages-torch AS training
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG TORCH=torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,from=requirements,source=/requirements,target=/tmp/requirements \
    pip --python /opt/venv/bin/python install --only-binary :all: \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "$TORCH" \
        --constraint /tmp/requirements/versions.txt --requirement /tmp/requirements/training.txt
COPY app app
COPY training training
RUN mkdir data models runs && chown 10001:10001 data models runs && chmod -R a+rX . && \
    env --unset PYTHONDONTWRITEBYTECODE python -m compileall -q app training
# Starts as root to become the owner of the mounted models folder, so that what it writes belongs to that user and not
# to root. Docker makes absent folders as root's, which is why data and runs are handed over.
ENTRYPOINT ["bash", "-ec", "owner=$(stat --format %u:%g models); chown \"$owner\" data runs; \
exec setpriv --reuid \"${owner%:*}\" --regid \"${owner#*:}\" --clear-groups python -m training \"$@\"", "training"]
CMD ["--help"]


# What is in the environment, with versions, licences and origins, in the form of CycloneDX. The base image's Debian
# packages are in its own /var/lib/dpkg/status; the digests of the models are in their cards.
FROM packages-${VARIANT} AS listed
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/cyclonedx && \
    pip --python /opt/cyclonedx/bin/python install --only-binary :all: "cyclonedx-bom>=7.5,<8"
COPY pyproject.toml .
RUN /opt/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
    --output-file /sbom.cdx.json /opt/venv/bin/python


FROM scratch AS sbom
COPY --from=listed /sbom.cdx.json /


FROM packages-${VARIANT} AS service
COPY app app
COPY models models
# Where compose puts the volumes with the items and the models, which take their owner from here.
RUN install --directory --owner=10001 --group=10001 --mode=700 /data /models
RUN chmod -R a+rX . && env --unset PYTHONDONTWRITEBYTECODE python -m compileall -q app
ENV WARDROBE_HOST=0.0.0.0 \
    WARDROBE_PORT=8000 \
    WARDROBE_DATA_DIR=/data
USER 10001:10001
EXPOSE 8000
# http.client and not urllib.request: it starts faster and takes no notice of http_proxy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --start-interval=1s CMD ["python", "-c", "\
import http.client, os, sys; \
connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['WARDROBE_PORT']), timeout=2); \
connection.request('GET', '/health/ready'); \
sys.exit(connection.getresponse().status != 200)"]
CMD ["python", "-m", "app"]
