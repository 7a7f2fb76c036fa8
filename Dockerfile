# Training and serving on GPU machines. The wheels bring CUDA; the host brings its driver and NVIDIA's container toolkit.
#   docker build -t keepstate .
#   docker run --rm -it --gpus all -v "$PWD:/work" -v keepstate-hub:/home/keepstate/.cache keepstate doctor
# The full image, as Triton and vLLM compile with a C compiler and Python's headers while they run.
FROM python:3.11-bookworm

ENV KEEPSTATE_HOME=/opt/keepstate \
    KEEPSTATE_DEVICE=cuda \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/venv/bin:$PATH

COPY locks/core.txt /src/locks/core.txt
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes -r /src/locks/core.txt

# Environments, 20 GB.
COPY . /src
RUN pip install --no-deps --no-build-isolation /src && keepstate setup train serve

# The namespaces rung of the sandbox needs --security-opt seccomp=unconfined; without it Landlock and seccomp are taken.
RUN useradd --uid 1000 --create-home keepstate && mkdir /work && chown keepstate /work
USER 1000
WORKDIR /work
ENTRYPOINT ["keepstate"]
CMD ["doctor"]
