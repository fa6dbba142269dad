# syntax=docker/dockerfile:1
# Training image. It has not been built by Docker where it was written, as there was none: `make soak-container` runs its
# steps in a clean Debian instead, for CPUs; docs/container.md says which were run. mstat.def is the same for Apptainer.
#
#   docker build -t mstat .
#   docker run --gpus all --ipc=host -v "$PWD/data:/mstat/data" -v "$PWD/runs:/mstat/runs" mstat \
#     accelerate launch --config_file configs/accelerate/ddp.yaml launch/train.py --config configs/mars.yaml
#
# --ipc=host: loader workers and NCCL share memory, and Docker's 64 MB of it are too few.
# Files in the two folders belong to user 1000; `--build-arg UID=$(id -u)` makes that you.
#
# DeepSpeed is built against the torch that is installed before it. Its compiled ops are not prebuilt: it compiles one when
# it is first asked for, and nothing here asks. Whoever does needs nvcc, which the larger image has:
# --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
FROM ${BASE}

# Of the CUDA that BASE has.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG UID=1000

# build-essential and python3-dev: what Triton and DeepSpeed need where they compile something.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Ubuntu's own user has number 1000, hence --non-unique.
RUN useradd --create-home --non-unique --uid "${UID}" mstat && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

WORKDIR /mstat
# Apart from our own files, which change more often than these gigabytes.
COPY constraints.txt ./
# Without isolation: a build of its own would not see torch, and note that there is none.
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip -c constraints.txt --extra-index-url "${TORCH_INDEX}" \
        torch numpy packaging ninja py-cpuinfo psutil "setuptools>=77" wheel \
    && DS_BUILD_OPS=0 pip install --cache-dir /var/cache/pip -c constraints.txt --no-build-isolation deepspeed
COPY --chown=mstat . .
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --cache-dir /var/cache/pip -c constraints.txt --extra-index-url "${TORCH_INDEX}" -e . \
    && mkdir -p data runs && chown mstat . data runs

USER mstat
# The base prints a banner by one; here, what follows the name of the image is the command.
ENTRYPOINT []
CMD ["accelerate", "launch", "--config_file", "configs/accelerate/single.yaml", "launch/train.py"]
