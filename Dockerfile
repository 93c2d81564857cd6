# One image for the worker, its flow runs, the Prefect server and the local S3 store; targets cpu and gpu.
#   docker build --target cpu --tag cascadexml:0.1.0-cpu .
# No stage takes a secret: credentials come from the environment at run time (docs/deployment.md).

FROM python:3.11.13-slim-bookworm AS libraries
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.lock pyproject.toml ./
COPY tools/lock-overrides.txt tools/
RUN pip install --constraint requirements.lock uv

# Given PyTorch's index of CPU builds as TORCH_INDEX, the image is some 5 GB smaller: the usual build brings CUDA.
FROM libraries AS libraries-cpu
ARG TORCH_INDEX=
RUN pip install --constraint requirements.lock ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.lock)"
RUN uv pip install --constraint requirements.lock --override tools/lock-overrides.txt \
    --requirements pyproject.toml --extra pipeline
COPY LICENSE README.md ./
COPY cascadexml cascadexml
RUN uv pip install --no-deps . && uv pip uninstall uv

FROM libraries AS libraries-gpu
# pip, because the CUDA packages are not in the lock: this torch pins them itself.
RUN pip install --constraint requirements.lock "$(grep '^torch==' requirements.lock)"
RUN uv pip install --constraint requirements.lock --override tools/lock-overrides.txt \
    --requirements pyproject.toml --extra pipeline
COPY LICENSE README.md ./
COPY cascadexml cascadexml
RUN uv pip install --no-deps . && uv pip uninstall uv

FROM python:3.11.13-slim-bookworm AS project
WORKDIR /app
COPY Makefile params.yaml prefect.yaml dvc.yaml dvc.lock requirements.lock .dvcignore ./
COPY .dvc/config .dvc/config
COPY params params
COPY cascadexml cascadexml
COPY stages stages
COPY flows flows
COPY data data
# Without git, DVC must be told so. A volume takes over the owner of the folder that it is mounted on.
RUN printf '[core]\n    no_scm = true\n' > .dvc/config.local && mkdir -p .dvc/cache

FROM python:3.11.13-slim-bookworm AS runtime
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DO_NOT_TRACK=1 \
    DVC_NO_ANALYTICS=1 \
    GX_ANALYTICS_ENABLED=false \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --create-home app \
    && install --directory --owner app --group app /app /objects /home/app/.cache
WORKDIR /app
USER 10001:10001
CMD ["prefect", "worker", "start", "--pool", "cascadexml", "--type", "process", "--with-healthcheck"]

FROM runtime AS cpu
COPY --from=libraries-cpu /opt/venv /opt/venv
COPY --from=project --chown=10001:10001 /app /app

FROM runtime AS gpu
COPY --from=libraries-gpu /opt/venv /opt/venv
COPY --from=project --chown=10001:10001 /app /app
