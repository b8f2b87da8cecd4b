# CPU image; for CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=eval,track
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir torch -c constraints.txt --index-url "$TORCH_INDEX" \
    && pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"
RUN useradd --create-home tabom
USER tabom
WORKDIR /home/tabom
ENTRYPOINT ["tabom"]
CMD ["run", "toy-quick"]
