"""Stopping where the text is final, prompts that take the place of finished rows, and the cap."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tabom.core.errors import ConfigError
from tabom.decoding.canvas import TRUNCATED
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoded, Decoder, DecodeRequest
from tabom.decoding.requests import StepView
from tabom.models.contract import MaskedDiffusionModel

Models = Callable[[str], MaskedDiffusionModel]
Requests = Callable[..., list[DecodeRequest]]
FAMILIES = ("toy", "dream", "llada", "sdar")


@pytest.fixture
def ending(models: Models) -> Any:
    """`ending(family)`: its model, in which several tokens end a response."""
    changed = []

    def get(family: str, eos: tuple[int, ...] = (2, 5, 11, 17)) -> MaskedDiffusionModel:
        model = models(family)
        changed.append((model, model.ids))
        model.ids = replace(model.ids, eos=eos, filler=eos[-1])
        return model

    yield get
    for model, ids in reversed(changed):
        model.ids = ids


def stop_step(ids_N: list[int], step_N: list[int], eos: tuple[int, ...]) -> int | None:
    """The first step after which no masked slot is left of the leftmost decoded end token."""
    for step in range(max(step_N) + 1):
        ends = [n for n, t in enumerate(ids_N) if t in eos and step_N[n] <= step]
        if ends and all(step_N[n] <= step for n in range(min(ends))):
            return step
    return None


def check_prefix(full: Decoded, text: Decoded, model: MaskedDiffusionModel) -> bool:
    """Whether the text run is the full one up to the stop, and whether it stopped early."""
    f, t = full.trajectory, text.trajectory
    last = stop_step(f.response_ids_N.tolist(), f.step_N.tolist(), model.ids.eos)
    seen_N = f.step_N <= (f.num_forwards if last is None else last)
    assert t.num_forwards == (f.num_forwards if last is None else last + 1)
    for name in ("response_ids_N", "step_N"):
        np.testing.assert_array_equal(getattr(f, name)[seen_N], getattr(t, name)[seen_N])
    for name in ("entropy_N", "confidence_N"):
        np.testing.assert_allclose(getattr(f, name)[seen_N], getattr(t, name)[seen_N], atol=1e-5)
        assert np.isnan(getattr(t, name)[~seen_N]).all()
    assert (t.step_N[~seen_N] == -1).all()
    assert (t.response_ids_N[~seen_N] == model.ids.filler).all()
    assert t.row.get(TRUNCATED, False) == (not seen_N.all())
    end = next((n for n, i in enumerate(f.response_ids_N) if i in model.ids.eos), f.num_slots)
    assert f.response_ids_N[: end + 1].tolist() == t.response_ids_N[: end + 1].tolist()
    return not seen_N.all()


CONFIGS = [
    DecodingConfig(max_new_tokens=12),
    DecodingConfig(max_new_tokens=12, policy="confidence", tokens_per_step=2),
    DecodingConfig(max_new_tokens=12, policy="margin", block_length=4),
    DecodingConfig(max_new_tokens=12, policy="random", temperature=1.0, block_length=6),
    DecodingConfig(max_new_tokens=12, temperature=0.8, top_p=0.8),
    DecodingConfig(
        max_new_tokens=12, policy="confidence", schedule="threshold", threshold=0.3, block_length=4
    ),
    DecodingConfig(max_new_tokens=12, policy="confidence", schedule="factor", factor=1.0),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_stopping_at_the_text_changes_nothing_before(
    config: DecodingConfig, family: str, ending: Any, requests_of: Requests
) -> None:
    model, requests = ending(family), requests_of([3, 9, 5, 5, 3, 7, 4, 5, 6, 8])
    if family == "sdar":
        config = replace(config, block_length=None)
    full = list(Decoder(model, config, seed=3).in_order(requests))
    runs = [
        list(Decoder(model, replace(config, stop="text"), seed=3, **options).in_order(requests))
        for options in (
            {"batch_size": 1},
            {"batch_size": 10},
            {"batch_size": 4},
        )
    ]
    decoder = Decoder(model, replace(config, stop="text"), seed=3, batch_size=3)
    runs.append(list(decoder.in_order(requests, record_field=True)))
    early = [[check_prefix(f, t, model) for f, t in zip(full, r, strict=True)] for r in runs]
    assert early[0] == early[1] == early[2] == early[3]
    assert any(early[0])  # else the test shows nothing


@given(
    seed=st.integers(0, 2**20),
    eos=st.sets(st.integers(0, 19), min_size=1, max_size=6),
    data=st.data(),
)
@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_end_tokens_any_batch(
    seed: int, eos: set[int], data: st.DataObject, ending: Any, requests_of: Requests
) -> None:
    model = ending(data.draw(st.sampled_from(FAMILIES[:3])), tuple(sorted(eos)))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    requests = requests_of(lengths, seed=seed)
    config = DecodingConfig(max_new_tokens=8, temperature=data.draw(st.sampled_from([0.0, 1.0])))
    size = data.draw(st.integers(1, 5))
    full = Decoder(model, config, seed=seed, batch_size=7).in_order(requests)
    text = Decoder(model, replace(config, stop="text"), seed=seed, batch_size=size).in_order(
        requests
    )
    for f, t in zip(full, text, strict=True):
        check_prefix(f, t, model)


def same(one: Decoded, other: Decoded) -> None:
    a, b = one.trajectory, other.trajectory
    assert (a.id, a.num_forwards, a.row) == (b.id, b.num_forwards, b.row)
    assert a.response_ids_N.tolist() == b.response_ids_N.tolist()
    assert a.step_N.tolist() == b.step_N.tolist()
    np.testing.assert_allclose(a.entropy_N, b.entropy_N, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3], CONFIGS[4]], ids=str)
def test_prompts_enter_where_rows_have_finished(
    config: DecodingConfig, ending: Any, requests_of: Requests
) -> None:
    model, requests = ending("dream"), requests_of([6] * 24)
    config = replace(config, stop="text")
    alone = list(Decoder(model, config, batch_size=1).in_order(requests))
    decoder = Decoder(model, config, batch_size=8)
    together, counts = list(decoder.in_order(requests)), decoder.counts
    for a, b in zip(alone, together, strict=True):
        same(a, b)
    assert counts.num_refills > 0
    assert counts.num_finished == 24
    assert counts.padding == 0
    # Without refills three batches would each go on until their last row is done.
    steps = [t.trajectory.num_forwards for t in together]
    assert counts.num_calls <= sum(max(steps[i : i + 8]) for i in range(0, 24, 8))
    assert counts.num_tokens == sum(steps) * (6 + 12)
    unordered = list(Decoder(model, config, batch_size=8).decode(requests))
    assert [d.trajectory.id for d in unordered] != [d.trajectory.id for d in together]
    for a, b in zip(
        together, sorted(unordered, key=lambda d: int(d.trajectory.id[1:])), strict=True
    ):
        same(a, b)


def test_no_prompt_enters_that_would_pad_the_others(ending: Any, requests_of: Requests) -> None:
    model, config = ending("toy"), DecodingConfig(max_new_tokens=12, stop="text")
    decoder = Decoder(model, config, batch_size=8)
    assert len(list(decoder.decode(requests_of([5] * 8 + [60] * 8)))) == 16
    assert decoder.counts.num_refills == 0
    assert decoder.counts.padding == 0


def test_the_fixed_schedule_has_whole_batches(models: Models, requests_of: Requests) -> None:
    decoder = Decoder(models("toy"), DecodingConfig(max_new_tokens=6), batch_size=4)
    assert len(list(decoder.decode(requests_of([4] * 6)))) == 6
    counts = decoder.counts
    assert (counts.num_calls, counts.num_refills) == (12, 0)
    assert counts.num_tokens == counts.num_real == 6 * 6 * 10
    assert counts.num_pairs == 6 * 6 * 10 * 10
    assert counts.num_rows == 6 * (6 + 5 + 4 + 3 + 2 + 1)


def test_an_observer_sees_batches_without_newcomers(ending: Any, requests_of: Requests) -> None:
    views: list[StepView] = []
    config = DecodingConfig(max_new_tokens=12, stop="text")
    decoder = Decoder(ending("toy"), config, batch_size=4)
    decoded = list(decoder.in_order(requests_of([4] * 6), on_step=views.append))
    assert decoder.counts.num_refills == 0
    steps = [d.trajectory.num_forwards for d in decoded]
    expected = [*range(max(steps[:4])), *range(max(steps[4:]))]
    assert [view.step for view in views] == expected


def test_padding_is_counted(models: Models, requests_of: Requests) -> None:
    decoder = Decoder(models("toy"), DecodingConfig(max_new_tokens=2))
    assert len(list(decoder.decode(requests_of([4, 2])))) == 2
    counts = decoder.counts
    assert (counts.num_tokens, counts.num_real) == (2 * 2 * 6, 2 * (6 + 4))
    assert counts.padding == pytest.approx(2 / 12)


def test_lengths_of_a_real_set_are_hardly_padded() -> None:
    # Mean 150, cv 0.6, as prompts of mathematics are; 256 slots, 32 rows.
    from tabom.decoding.requests import by_length

    rng = np.random.default_rng(0)
    sigma = np.sqrt(np.log(1 + 0.6**2))
    lengths = np.maximum(rng.lognormal(np.log(150) - sigma**2 / 2, sigma, 4000), 1).astype(int)
    requests = [DecodeRequest(id=str(i), prompt_ids=[1] * n) for i, n in enumerate(lengths)]
    shares = {}
    for is_sorted in (True, False):
        ordered = by_length(requests) if is_sorted else requests
        sizes = [len(request.prompt_ids) for request in ordered]
        batches = [sizes[i : i + 32] for i in range(0, len(sizes), 32)]
        padded = sum(len(batch) * (max(batch) + 256) for batch in batches)
        shares[is_sorted] = padded / (lengths + 256).sum()
    assert shares[True] <= 1.02
    assert shares[False] > 1.5


def test_text_is_not_official() -> None:
    with pytest.raises(ConfigError, match=r"stop 'text'.*'official'"):
        DecodingConfig(schedule="official", stop="text")


class Largest(TorchDispatchMode):
    """Notes the most values that one new float tensor has, weights left out."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and not func.is_view and value.is_floating_point():
                self.values = max(self.values, value.numel())
        return result


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_no_tensor_of_logits_grows_with_batch_length_or_vocabulary(
    temperature: float,
) -> None:
    from tabom.decoding.answers import Answers, Draws

    generator = torch.Generator().manual_seed(0)
    config = DecodingConfig(temperature=temperature, top_p=0.9 if temperature else None)
    found = set()
    cap = 4 * 20_000  # bytes: 20,000 values
    for rows, vocab in ((8, 5_000), (24, 5_000), (6, 20_000)):
        hidden = torch.randn(rows, 8, generator=generator)
        weight = torch.randn(vocab, 8, generator=generator)
        uniforms = torch.rand(rows, generator=generator, dtype=torch.float64)
        with Largest() as largest:
            answers = Answers(config=config, mask_id=3, max_logit_bytes=cap)
            answers.of(hidden, weight, Draws(token_R=uniforms if temperature else None))
        found.add(largest.values)
    assert max(found) <= cap // 4
    assert max(found) > 10_000  # the mode saw them
