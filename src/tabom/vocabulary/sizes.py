"""How large a tile of logits may be. Plain numbers, so that planning a run needs no torch."""

# Float32 logits that decoding holds at once, at most. At temperature 0 two tensors of this size
# are alive, above it about six. On a CPU larger ones come fresh from the system for every
# operation, which takes twice the time a row.
LOGIT_BYTES = {"cpu": 16 * 2**20, "gpu": 256 * 2**20}
# Logits of one tile in training, at most. A GPU wants few large products.
HEAD_TILE_BYTES = 64 * 2**20

TRAINING_WIDTH = 2048  # tokens of a training tile on a CPU, and the fewest on a GPU
DECODING_WIDTH = {"cpu": 1024, "gpu": 16384}  # tokens of a decoding tile
# With so many rows a decoding tile is 2 MiB. More rows would read the weights less often, but the
# tile would leave the caches.
CPU_ROWS = 512


def kind_of(device_type: str) -> str:
    """The key of a torch device type in the tables of this module."""
    return "cpu" if device_type == "cpu" else "gpu"


def training_width(num_rows: int, *, device_type: str, itemsize: int) -> int:
    """Tokens of one tile in training, where all rows go through it together."""
    if device_type == "cpu":
        return TRAINING_WIDTH
    return max(TRAINING_WIDTH, HEAD_TILE_BYTES // (itemsize * max(num_rows, 1)))


def decoding_shape(
    num_rows: int, vocab_size: int, max_logit_bytes: int, *, is_whole: bool, device_type: str
) -> tuple[int, int]:
    """Rows and tokens of one tile in decoding whose float32 logits fit into `max_logit_bytes`.

    is_whole: a tile has all tokens, and at least one row.
    """
    values, kind = max(1, max_logit_bytes // 4), kind_of(device_type)
    if is_whole:
        return max(1, values // vocab_size), vocab_size
    width = min(DECODING_WIDTH[kind], values)
    if kind == "cpu":
        width = min(width, vocab_size)
        return max(1, min(values // width, CPU_ROWS)), width
    rows = max(1, min(num_rows, values // width))
    # With few rows the tile is wider, so that there are fewer calls.
    return rows, max(1, min(vocab_size, values // rows))
