"""What stands where the decoder stands: requests in, trajectories out.

`Decoder` is one engine; a serving engine can be another. What it has to give is small, and checked
where it is not our own: of each slot the token, the step (model call) that revealed it, and the
entropy of the prediction at that moment. Without the first two there is nothing to train on; the
third orders the tokens of one step and may be NaN everywhere where it was not recorded.

Legend: N response slots.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.counts import DecodeCounts
from tabom.decoding.requests import Decoded, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel


class Engine(Protocol):
    """The doors of the decoder that collection and evaluation use.

    model: for its tokenizer, ids and sizes; the weights may live elsewhere. fingerprint: of what
    decodes: it goes into every trajectory, and a store of another one is refused. counts: read
    while it works; left at zero, speeds are not shown.
    """

    model: MaskedDiffusionModel
    config: DecodingConfig
    seed: int
    batch_size: int
    fingerprint: str
    counts: DecodeCounts

    def decode(
        self, requests: Iterable[DecodeRequest], *, record_field: bool = False
    ) -> Iterator[Decoded]:
        """Each request's response as it finishes, in any order.

        The trajectory has the request's id, prompt_ids, prompt, task, reference and row;
        response_ids of `config.max_new_tokens` slots, those after the first end token too (filler
        if the engine stops there, with step -1 and row["is_truncated"] true); step from 0, -1 for
        a slot that no call revealed; entropy and confidence of the untempered distribution at
        reveal, the mask token left out; num_forwards. The same request gives the same response in
        any batch: draws are keyed by (seed, id, step, slot).
        record_field: also the entropy of every masked slot at every step (evaluation's timing
            curves); an engine that cannot leaves `field_KN` None.
        """
        ...


class CheckedEngine:
    """Another engine's responses, each looked at before it is stored.

    Raises: DataError naming the request and what is wrong with its response, for one that was not
        asked, comes twice or is missing at the end, too.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model, self.config, self.seed = engine.model, engine.config, engine.seed
        self.batch_size, self.fingerprint = engine.batch_size, engine.fingerprint
        self.counts = engine.counts

    def decode(
        self, requests: Iterable[DecodeRequest], *, record_field: bool = False
    ) -> Iterator[Decoded]:
        """As the engine's, checked."""
        waiting = {request.id: request for request in requests}
        asked = list(waiting.values())
        for item in self.engine.decode(asked, record_field=record_field):
            request = waiting.pop(item.trajectory.id, None)
            if request is None:
                raise DataError(
                    f"the engine answered {item.trajectory.id!r}, which was not asked or was "
                    "answered before"
                )
            problem = self._problem(request, item)
            if problem is not None:
                raise DataError(f"the engine's response to {request.id!r}: {problem}")
            yield item
        if waiting:
            raise DataError(
                f"the engine left {len(waiting)} requests unanswered, the first "
                f"{next(iter(waiting))!r}"
            )

    def _problem(self, request: DecodeRequest, item: Decoded) -> str | None:
        t, ids = item.trajectory, self.model.ids
        if t.prompt_ids.tolist() != list(request.prompt_ids):
            return "its prompt_ids are not those that were asked"
        if t.num_slots != self.config.max_new_tokens:
            return f"{t.num_slots} slots; max_new_tokens is {self.config.max_new_tokens}"
        if (largest := int(t.response_ids_N.max())) >= self.model.vocab_size:
            return f"token {largest} is outside the vocabulary of {self.model.vocab_size}"
        revealed_N = t.step_N >= 0
        if not revealed_N.any():
            return "no slot was revealed; step says which model call revealed each"
        if (t.response_ids_N[revealed_N] == ids.mask).any():
            return "a revealed slot holds the mask token"
        for slot, token in request.fixed.items():
            if t.response_ids_N[slot] != token or revealed_N[slot]:
                return f"slot {slot} was given as token {token} and must stay so, with step -1"
        given_N = np.isin(np.arange(t.num_slots), list(request.fixed))
        left_N = ~revealed_N & ~given_N
        if not np.isin(t.response_ids_N[left_N], (ids.mask, ids.filler)).all():
            return "a slot with step -1 holds a token; only the mask or filler may stand there"
        if t.fingerprint != self.fingerprint:
            return f"fingerprint {t.fingerprint!r}; it must be the engine's {self.fingerprint!r}"
        return None
