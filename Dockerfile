# One image for the service, MLflow, Ray and jobs, so that their versions cannot differ.
#
#   docker build -t largebatch:0.1.0 --build-arg VARIANT=cpu --build-arg TORCH_INDEX_URL=... .
#   docker build -t largebatch:0.1.0-cuda --build-arg VARIANT=cuda .
#
# PyPI's torch brings its CUDA libraries along, and the machine its driver, so the base is the same for both. TORCH_INDEX_URL
# is the index of PyTorch's CPU wheels, which pytorch.org names; without it the cpu variant takes PyPI's wheel: it runs on
# CPUs too, and is some 5 GB larger.
FROM python:3.12.12-slim-bookworm AS build
ARG VARIANT=cuda
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/largebatch/bin:$PATH
RUN python -m venv /opt/largebatch
WORKDIR /app
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt
RUN set -eu; \
    case "$VARIANT" in \
        cuda) ;; \
        cpu) if [ -n "$TORCH_INDEX_URL" ]; then \
                pip install --no-deps --constraint constraints.txt --index-url "$TORCH_INDEX_URL" torch torchvision; \
            fi ;; \
        *) echo "VARIANT is cpu or cuda, not $VARIANT." >&2; exit 2 ;; \
    esac; \
    pip install --constraint constraints.txt --requirement /tmp/requirements.txt boto3
# Editable: packages and recipes lie side by side, as in a checkout, and that is how they are sent to Ray.
COPY README.md ./
COPY largebatch largebatch
COPY recipes recipes
COPY jobs jobs
COPY tuning tuning
COPY service service
RUN pip install --no-deps --editable . \
    && python -m compileall -q largebatch \
    && largebatch --help > /dev/null

FROM python:3.12.12-slim-bookworm
# Login shells, in which KubeRay starts some commands, set PATH anew.
RUN groupadd --gid 1000 largebatch \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --shell /bin/bash largebatch \
    && echo 'export PATH=/opt/largebatch/bin:$PATH' > /etc/profile.d/largebatch.sh
COPY --from=build /opt/largebatch /opt/largebatch
COPY --from=build /app /app
ENV PATH=/opt/largebatch/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 1000:1000
EXPOSE 8080
# For Docker alone; Kubernetes has probes of its own.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
CMD ["largebatch", "serve", "--host", "0.0.0.0", "--runs-dir", "/shared/runs", "--data-dir", "/shared/data"]
