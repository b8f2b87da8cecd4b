"""What a model costs: FLOPs and bytes as pure functions of its sizes, one formula a quantity.

Legend: B batch, S prompt + response, N response slots, R rows through the head, V vocabulary,
D hidden, F feed-forward width.

A multiply and an add are two FLOPs. Norms, rotations and softmaxes are not counted: on a GPU they
cost memory traffic, which the share of peak speed that a caller assumes has to cover.
"""

import bisect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tabom.core.errors import ModelError
from tabom.models.devices import Device
from tabom.models.family import Quantization
from tabom.models.sizes import ModelSizes
from tabom.vocabulary.sizes import HEAD_TILE_BYTES, LOGIT_BYTES

# A flash-attention backward computes the scores once more: 2.5 times the products of the forward.
ATTENTION_BACKWARD = 2.5
# Adapter weights are float32 whatever the base is: weight, gradient and two moments of AdamW.
BYTES_PER_TRAINED = 16
# One quantized weight with its scales: nf4 has one byte for each 64 values, and a float32 for each
# 256 of these; int8 has a float32 for each row, which is left out.
BYTES_PER_WEIGHT = {"nf4": 0.5 + (1 + 4 / 256) / 64, "int8": 1.0}
LARGEST_BATCH = 2**20  # no larger one is looked for
MFU = 0.4  # share of the peak that a run reaches, where nobody has measured it


def attention_flops(sizes: ModelSizes, *, num_tokens: float, context: float) -> float:
    """Scores and weighted sums of one forward pass, each of `num_tokens` seeing `context`."""
    return 4.0 * num_tokens * context * sizes.query_width * sizes.num_layers


def forward_flops(
    sizes: ModelSizes, *, num_tokens: float, context: float, num_rows: float
) -> float:
    """Model calls without gradients, of any number: all arguments but `context` add up.

    num_tokens: tokens through the layers (B * S of a call without a cache). context: S, tokens
        that each of them sees. num_rows: R, rows through the head.
    """
    return (
        2.0 * num_tokens * sizes.body_weights
        + attention_flops(sizes, num_tokens=num_tokens, context=context)
        + 2.0 * num_rows * sizes.head_weights
    )


def step_flops(
    sizes: ModelSizes,
    *,
    num_tokens: float,
    context: float,
    num_rows: float,
    lora_parameters: int | None,
    is_checkpointed: bool,
) -> float:
    """Forward and backward of any number of tokens.

    context: tokens that each of them sees, in the mean (of lengths l: sum l * l / sum l).
    lora_parameters: of an adapter on frozen weights, which need no gradient of their own (2 units
        forward, 2 for the input's gradient); None trains all weights (2 more units).
    is_checkpointed: the layers run forward once more in the backward pass.
    """
    units = 2 if lora_parameters is not None else 3  # of 2 FLOPs a weight and token
    attention = attention_flops(sizes, num_tokens=num_tokens, context=context)
    adapter = 2.0 * num_tokens * (lora_parameters or 0)
    flops = 2.0 * units * (num_tokens * sizes.body_weights + num_rows * sizes.head_weights)
    flops += (1 + ATTENTION_BACKWARD) * attention + 3 * adapter
    if is_checkpointed:
        flops += 2.0 * num_tokens * sizes.body_weights + attention + adapter
    return flops


def lora_parameters(sizes: ModelSizes, *, r: int, target_modules: Iterable[str]) -> int:
    """Parameters of a LoRA adapter: r * (in + out) of each target in each layer.

    target_modules: q_proj, ... or "all-linear".
    Raises: ModelError for a name that these networks do not have.
    """
    width, query, key = sizes.hidden_size, sizes.query_width, sizes.key_width
    # Routed experts are no plain matrices and get no adapter.
    inside = sizes.intermediate_size if sizes.linear_size is None else sizes.linear_size
    ends = {
        "q_proj": width + query,
        "k_proj": width + key,
        "v_proj": width + key,
        "o_proj": query + width,
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), width + inside if inside else 0),
    }
    names = {name.rpartition(".")[2] for name in target_modules}
    names = set(ends) if names == {"all-linear"} else names
    unknown = sorted(names - set(ends))
    if unknown:
        raise ModelError(
            f"LoRA target {', '.join(unknown)}: take some of {', '.join(ends)}, or all-linear"
        )
    return round(sizes.num_layers * r * sum(ends[name] for name in names))


# Peak bytes on one device, by what they hold: "weights" of the base, "trained" (an adapter, or
# gradients and moments of all weights), "activations" of the layers and "logits" of the head.
Memory = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What goes through the model at once: B responses of S tokens, R rows through the head."""

    size: int
    length: int
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A model on a device.

    mfu: hours are FLOPs over mfu times the device's peak, and at least one reading of the weights
    a model call. quantization: of the layers' matrices; each is unpacked when it is multiplied.
    """

    sizes: ModelSizes
    device: Device
    mfu: float = MFU
    quantization: Quantization | None = None

    @property
    def weight_bytes(self) -> int:
        """Of all weights: in the device's dtype, or the layers' matrices in few bits."""
        width, body = self.device.bytes_per_value, self.sizes.body_weights
        if self.quantization is None:
            return width * self.sizes.num_parameters
        small = round(BYTES_PER_WEIGHT[self.quantization] * body)
        return width * (self.sizes.num_parameters - body) + small

    def seconds(self, flops: float, *, calls: float) -> float:
        """Time of some FLOPs in some model calls, each of which reads the weights."""
        seconds = flops / (self.mfu * self.device.tflops * 1e12)
        if self.device.bandwidth is None:
            return seconds
        return max(seconds, calls * self.weight_bytes / (self.device.bandwidth * 1e12))

    def decoding_memory(self, batch: Batch, *, max_logit_bytes: int | None = None) -> Memory:
        """Peak of one decoding step.

        batch: R of the first step, all masked slots. max_logit_bytes: of one float32
            [rows, vocabulary] tensor, as the decoder chooses them if None; three are alive at
            once: the model's own, logits, weights.
        """
        sizes, width = self.sizes, self.device.bytes_per_value
        row, most = 4 * sizes.vocab_size, LOGIT_BYTES["gpu" if self.device.is_gpu else "cpu"]
        most = most if max_logit_bytes is None else max_logit_bytes
        chunk = min(row * batch.num_rows, max(most, row))
        in_flight = batch.size * batch.length * _in_flight(sizes, width)
        return {
            "weights": self.weight_bytes,
            "trained": 0,
            "activations": in_flight + width * sizes.hidden_size * batch.num_rows,
            "logits": 2 * chunk + chunk * width // 4,
        }

    def training_memory(
        self,
        batch: Batch,
        *,
        lora_parameters: int | None,
        is_checkpointed: bool,
        max_buffer_bytes: int,
    ) -> Memory:
        """Peak of one training micro-batch, at the start of its backward pass.

        max_buffer_bytes: what the head may keep of float32 logits before it computes them again by
            tiles.
        """
        sizes, width = self.sizes, self.device.bytes_per_value
        is_full = lora_parameters is None
        layer = kept_per_token(sizes, bytes_per_value=width, is_full=is_full)
        kept = layer * sizes.num_layers
        if is_checkpointed:
            kept = width * sizes.hidden_size * sizes.num_layers + layer
        dense = 4 * batch.num_rows * sizes.vocab_size
        trained = BYTES_PER_TRAINED * (lora_parameters or 0)
        if is_full:  # gradients and two moments in the weights' own dtype
            trained = 3 * width * sizes.num_parameters
        return {
            "weights": self.weight_bytes,
            "trained": trained,
            "activations": batch.size * batch.length * (kept + _in_flight(sizes, width)),
            "logits": 2 * min(HEAD_TILE_BYTES, dense) + min(dense, max_buffer_bytes),
        }


def kept_per_token(sizes: ModelSizes, *, bytes_per_value: int, is_full: bool) -> int:
    """Bytes a token that the backward pass of one layer needs from its forward pass.

    Frozen matrices keep nothing. Kept are the float32 input of both norms, the adapter's inputs
    (at q_proj and v_proj), queries, keys, values and the result of attention, and of the
    feed-forward part gate, its activation and up. Trained matrices keep their inputs as well.
    """
    width, query, key = sizes.hidden_size, sizes.query_width, sizes.key_width
    inside = math.ceil(sizes.intermediate_size)
    values = 2 * query + 2 * key + 3 * inside + 2 * width
    if is_full:  # the norms' outputs (their weights train) and the input of down_proj
        values += 2 * width + inside
    return 2 * 4 * width + bytes_per_value * values


def _in_flight(sizes: ModelSizes, bytes_per_value: int) -> int:
    """Bytes a token of the widest place of one layer's forward: its feed-forward part."""
    return bytes_per_value * (3 * sizes.hidden_size + 3 * math.ceil(sizes.intermediate_size))


def largest_batch(num_bytes: float, peak: Callable[[int], Memory]) -> int:
    """The most responses whose peak fits, at most `LARGEST_BATCH`; 0 if not even one does.

    peak: memory by batch size, which grows with it.
    """
    sizes = range(1, LARGEST_BATCH + 1)
    return bisect.bisect_right(sizes, num_bytes, key=lambda size: sum(peak(size).values()))
