"""What the decoder is asked and what it gives back.

Legend: B batch, K steps (model calls), N response slots.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabom.core.configs import Brief
from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.trajectory.record import FloatArray, Trajectory


@dataclass(frozen=True, kw_only=True)
class DecodeRequest(Brief):
    """One response to decode.

    id: unique; the key of every draw, and the trajectory's id.
    prompt_ids: what the model sees, chat template included; not empty.
    prompt, task, reference, row: carried into the trajectory unchanged.
    fixed: tokens of the answer that are given, by slot; the others are decoded between them. In the
        trajectory given slots have their token, no step, and stand in `row` under "fixed".
    """

    id: str
    prompt_ids: Sequence[int]
    prompt: str = ""
    task: str = ""
    reference: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    fixed: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded(Brief):
    """A decoded response.

    field_KN: float32 nats, the entropy of every slot still masked when step k was called, NaN
        elsewhere. None unless asked for.
    num_following: responses that finished at the same model call and come right after this one,
        so that a writer can wait for the last of them.
    """

    trajectory: Trajectory
    field_KN: FloatArray | None = None
    num_following: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class StepView:
    """What an observer sees after each reveal: copies, on the CPU, so that it can change nothing.

    step: of the reveal just made. ids: of the requests of this batch, a row each.
    response_ids_BN: int64, the mask id where nothing is revealed. open_BN: bool, slots left to
        decode. step_BN, entropy_BN, confidence_BN: at reveal, as in the trajectory.
    """

    step: int
    ids: tuple[str, ...]
    response_ids_BN: NDArray[np.int64]
    open_BN: NDArray[np.bool_]
    step_BN: NDArray[np.int64]
    entropy_BN: FloatArray
    confidence_BN: FloatArray


# It is called while a batch is decoded, so it had better be quick.
Observer = Callable[[StepView], None]


def check_request(
    request: DecodeRequest, config: DecodingConfig, mask_id: int, vocab_size: int
) -> None:
    """Raises `DataError` for an empty prompt, an id outside the vocabulary, a slot that is none.

    config, mask_id, vocab_size: of the decoding and its model.
    """
    if len(request.prompt_ids) == 0:
        raise DataError(f"request {request.id!r}: prompt_ids is empty")
    for name, ids in (("prompt", request.prompt_ids), ("fixed", list(request.fixed.values()))):
        low, high = min(ids, default=0), max(ids, default=0)
        if low < 0 or high >= vocab_size:
            raise DataError(
                f"request {request.id!r}: {name} token {low if low < 0 else high} is outside the "
                f"vocabulary of {vocab_size}; tokenize with this model's tokenizer"
            )
    if request.fixed and config.is_official:
        raise DataError(
            f"request {request.id!r} has fixed slots, and the published functions of schedule "
            "'official' begin with an empty answer; take another schedule"
        )
    for slot, token in request.fixed.items():
        if not 0 <= slot < config.max_new_tokens or token == mask_id:
            raise DataError(
                f"request {request.id!r}: fixed slot {slot} with token {token}; expected a slot "
                f"below max_new_tokens = {config.max_new_tokens}, and a token other than the mask"
            )


def by_length(requests: Iterable[DecodeRequest]) -> list[DecodeRequest]:
    """The requests with prompts of alike length side by side, so that batches have few pads."""
    return sorted(requests, key=lambda request: len(request.prompt_ids))
