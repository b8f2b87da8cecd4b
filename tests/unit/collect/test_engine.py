"""Another engine in the decoder's place: it collects the same, and what it gets wrong is told."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, Decoder, DecodeRequest
from tabom.decoding.engine import CheckedEngine
from tabom.models.loading import load_model
from tabom.trajectory.record import Trajectory

Change = Callable[[Trajectory], Trajectory]


class Remote:
    """Answers as a server would: one request at a time, the last one first."""

    def __init__(self, decoder: Decoder, change: Change = lambda t: t) -> None:
        self.decoder, self.change = decoder, change
        for name in ("model", "config", "seed", "batch_size", "fingerprint", "counts"):
            setattr(self, name, getattr(decoder, name))

    def decode(
        self, requests: Iterable[DecodeRequest], *, record_field: bool = False
    ) -> Iterator[Decoded]:
        for request in list(requests)[::-1]:
            (item,) = self.decoder.decode([request], record_field=record_field)
            yield replace(item, trajectory=self.change(item.trajectory))


@pytest.fixture
def decoder(random_toy: Path) -> Decoder:
    model = load_model(random_toy, device="cpu")
    return Decoder(model, DecodingConfig(max_new_tokens=6), seed=3, fingerprint="f")


REQUESTS = [DecodeRequest(id=f"r{i}", prompt_ids=[5, 6, 7 + i]) for i in range(4)]


def test_it_gives_what_the_decoder_gives(decoder: Decoder) -> None:
    own = {item.trajectory.id: item.trajectory for item in decoder.decode(REQUESTS)}
    found = list(CheckedEngine(Remote(decoder)).decode(REQUESTS))  # type: ignore[arg-type]
    assert [item.trajectory.id for item in found] == ["r3", "r2", "r1", "r0"]
    for item in found:
        assert item.trajectory.step_N.tolist() == own[item.trajectory.id].step_N.tolist()
        assert item.trajectory.response_ids_N.tolist() == (
            own[item.trajectory.id].response_ids_N.tolist()
        )


def _with(**changes: Any) -> Change:
    return lambda t: replace(t, **changes)


def _revealed_mask(t: Trajectory) -> Trajectory:
    ids = t.response_ids_N.copy()
    ids[2] = _revealed_mask.mask  # type: ignore[attr-defined]
    return replace(t, response_ids_N=ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(id="other"), "not asked"),
        (_with(prompt_ids=np.array([1])), "prompt_ids"),
        (_with(fingerprint=""), "fingerprint"),
        (_with(response_ids_N=np.full(6, 10**6)), "outside the vocabulary"),
        (_with(step_N=np.full(6, -1), entropy_N=np.full(6, np.nan),
               confidence_N=np.full(6, np.nan)), "no slot was revealed"),
        (_revealed_mask, "holds the mask"),
        (lambda t: replace(t, step_N=np.where(np.arange(6) == 1, -1, t.step_N)), "step -1"),
    ],
)  # fmt: skip
def test_what_an_engine_gets_wrong_is_told(decoder: Decoder, change: Change, message: str) -> None:
    _revealed_mask.mask = decoder.model.ids.mask  # type: ignore[attr-defined]
    engine = CheckedEngine(Remote(decoder, change))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        list(engine.decode(REQUESTS))


def test_one_that_is_not_answered_or_twice(decoder: Decoder) -> None:
    class Lossy(Remote):
        def decode(self, requests: Iterable[DecodeRequest], **options: Any) -> Iterator[Decoded]:
            yield from list(super().decode(requests))[:-1]

    class Doubling(Remote):
        def decode(self, requests: Iterable[DecodeRequest], **options: Any) -> Iterator[Decoded]:
            for item in super().decode(requests):
                yield item
                yield item

    with pytest.raises(DataError, match=r"1 requests unanswered.*'r0'"):
        list(CheckedEngine(Lossy(decoder)).decode(REQUESTS))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="answered before"):
        list(CheckedEngine(Doubling(decoder)).decode(REQUESTS))  # type: ignore[arg-type]


def test_given_slots_stay(decoder: Decoder) -> None:
    request = DecodeRequest(id="x", prompt_ids=[5, 6], fixed={1: 9})
    assert list(CheckedEngine(Remote(decoder)).decode([request]))  # type: ignore[arg-type]

    def other(t: Trajectory) -> Trajectory:
        ids = t.response_ids_N.copy()
        ids[1] = 8
        return replace(t, response_ids_N=ids)

    with pytest.raises(DataError, match="slot 1 was given"):
        list(CheckedEngine(Remote(decoder, other)).decode([request]))  # type: ignore[arg-type]
