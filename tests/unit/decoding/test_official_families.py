"""The official schedule of LLaDA2, SDAR and RND1 beyond the golden cases, and our own on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official import Official, config_of

from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.loading import load_model
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finish

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def goldens() -> Callable[[str], Official]:
    found: dict[str, Official] = {}

    def get(family: str) -> Official:
        if family not in found:
            found[family] = Official(GOLDEN / f"{family}-tiny")
        return found[family]

    return get


def official_config(**options: Any) -> DecodingConfig:
    return DecodingConfig(schedule="official", **options)


@pytest.mark.parametrize("family", ["llada2", "sdar"])
def test_rows_of_a_batch_go_their_own_way(family: str, goldens: Callable[[str], Official]) -> None:
    golden = goldens(family)
    cases = {}  # one prompt of each length, decoded alike
    for case in golden.cases:
        options = {k: v for k, v in case["options"].items() if k != "gen_length"}
        key = (case.get("algorithm"), str(options))
        cases.setdefault(key, {})[len(case["prompt_ids"][0])] = case
    group = max(cases.values(), key=len)
    assert len(group) >= 3
    one = next(iter(group.values()))
    config = config_of(golden.model.family.official_decoding, one)
    requests = [
        DecodeRequest(id=str(n), prompt_ids=case["prompt_ids"][0]) for n, case in group.items()
    ]
    together = Decoder(golden.model, config, batch_size=len(requests)).in_order(requests)
    for request, done in zip(requests, together, strict=True):
        (alone,) = Decoder(golden.model, config).in_order([request])
        for name in ("response_ids_N", "step_N", "edits"):
            found, wanted = (getattr(d.trajectory, name) for d in (done, alone))
            assert np.array_equal(found, wanted), name
        assert done.trajectory.num_forwards == alone.trajectory.num_forwards
        np.testing.assert_allclose(
            done.trajectory.entropy_N, alone.trajectory.entropy_N, rtol=1e-4, atol=1e-5
        )


def test_the_recorded_entropy_is_that_of_the_first_reveal(
    goldens: Callable[[str], Official],
) -> None:
    golden = goldens("llada2")
    case = next(c for c in golden.cases if c["edits"])
    (trajectory,) = golden.trajectories(case, config_of("llada2", case))
    model, block = golden.model, case["options"]["block_length"]
    slot = int(trajectory.edits[0, 0])
    assert trajectory.step_N[slot] < trajectory.edits[0, 1]
    # The canvas at the call of its reveal, put together from the record.
    first_N = trajectory.response_ids_N.copy()
    for n, _, old, _ in trajectory.edits[::-1].tolist():
        first_N[n] = old
    step = trajectory.step_N[slot]
    canvas_N = np.where((trajectory.step_N >= 0) & (trajectory.step_N < step), first_N, -1)
    for n, s, _, new in trajectory.edits.tolist():
        if s < step:
            canvas_N[n] = new
    ids = [*case["prompt_ids"][0], *canvas_N.tolist()]
    ids = [model.ids.mask if token == -1 else token for token in ids]
    ids += [model.ids.mask] * (-len(ids) % block)
    with torch.inference_mode():
        hidden = model.hidden_states(torch.tensor(ids)[None], None, block_length=block)
        logits = (hidden @ model.head_weight_VD.T)[0, len(case["prompt_ids"][0]) + slot]
    logits = logits.double().clone()
    logits[model.ids.mask] = -torch.inf
    p = logits.softmax(-1)
    entropy = float(-(p * p.clamp(min=1e-300).log()).sum())
    assert trajectory.entropy_N[slot] == pytest.approx(entropy, abs=1e-4)
    assert trajectory.confidence_N[slot] == pytest.approx(float(p[first_N[slot]]), abs=1e-4)


def test_a_model_that_predicts_the_mask_ends(
    goldens: Callable[[str], Official],
) -> None:
    model = load_model(GOLDEN / "llada2-tiny", require_tokenizer=False, device="cpu")
    with torch.no_grad():  # the mask wins everywhere
        mean = model.head_weight_VD.float().mean(0)
        model.head_weight_VD[model.ids.mask] = 50 * mean / mean.norm()
    config = official_config(
        policy="low_confidence", official_loop="llada2.1", max_new_tokens=16, block_length=8,
        threshold=0.7, editing_threshold=0.5,
    )  # fmt: skip
    (done,) = Decoder(model, config).in_order([DecodeRequest(id="a", prompt_ids=[1, 2, 3])])
    assert model.ids.mask not in done.trajectory.response_ids_N


@pytest.mark.parametrize("family", ["llada2", "lladamoe", "rnd1"])
@pytest.mark.parametrize(
    "config",
    [
        DecodingConfig(policy="entropy", max_new_tokens=9),
        DecodingConfig(policy="confidence", schedule="threshold", threshold=0.4, max_new_tokens=9),
        DecodingConfig(policy="margin", tokens_per_step=3, max_new_tokens=9, temperature=0.7),
        DecodingConfig(
            max_new_tokens=9, suppress_ids=(4, 9), begin_suppress_ids=(6,), eos_penalty=2.0
        ),
    ],
    ids=["entropy", "threshold", "sampled", "suppressed"],
)
def test_our_own_schedules(
    family: str, config: DecodingConfig, goldens: Callable[[str], Official]
) -> None:
    model = goldens(family).model
    requests = [DecodeRequest(id=str(n), prompt_ids=list(range(1, 4 + n))) for n in range(5)]
    found = {}
    for batch_size in (1, 2, 5):
        decoder = Decoder(model, config, seed=3, batch_size=batch_size)
        found[batch_size] = [d.trajectory for d in decoder.in_order(requests)]
    for other in (found[2], found[5]):
        for a, b in zip(found[1], other, strict=True):
            assert np.array_equal(a.response_ids_N, b.response_ids_N)
            assert np.array_equal(a.step_N, b.step_N)
    for trajectory in found[1]:
        assert (trajectory.step_N >= 0).all()
        assert not {model.ids.mask, *config.suppress_ids} & {*trajectory.response_ids_N.tolist()}


def test_edits_survive_the_store(goldens: Callable[[str], Official], tmp_path: Path) -> None:
    golden = goldens("llada2")
    case = max(golden.cases, key=lambda c: len(c["edits"]))
    (edited,) = golden.trajectories(case, config_of("llada2", case))
    plain_case = next(c for c in golden.cases if not c["edits"])
    (plain,) = golden.trajectories(plain_case, config_of("llada2", plain_case))
    writer = TrajectoryWriter(tmp_path)
    plain = Trajectory(**{**vars(plain), "id": "plain"})
    writer.append([edited, plain])
    finish(tmp_path, fingerprint="f", settings={}, seconds=0.0)
    read = {t.id: t for t in TrajectoryStore(tmp_path)}
    assert np.array_equal(read[edited.id].edits, edited.edits)
    assert len(edited.edits) > 20
    assert read["plain"].edits.shape == (0, 4)


@pytest.mark.parametrize(
    "edits, why",
    [
        ([9, 2, 1, 1], "outside of the 3"),
        ([0, 0, 1, 1], "before their slot was revealed"),
        ([0, 3, 1, 1], "after the last call"),
        ([2, 1, 1, 1], "never revealed"),
        ([0, 1, -1, 1], "negative"),
        ([0, 1, 1], "four for each"),
    ],
)
def test_edits_that_cannot_be_are_refused(edits: list[int], why: str) -> None:
    with pytest.raises(DataError, match=why):
        Trajectory(
            id="a", prompt="", prompt_ids=[1], response="", response_ids_N=[1, 2, 3],
            step_N=[0, 1, -1], entropy_N=[0, 0, np.nan], confidence_N=[1, 1, np.nan],
            num_forwards=3, edits=edits,
        )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    "family, options, words",
    [
        ("llada2", {"policy": "low_confidence"}, "official_loop"),
        ("llada2", {"policy": "entropy", "official_loop": "llada2.0"}, "low_confidence"),
        (
            "llada2",
            {"policy": "low_confidence", "official_loop": "llada2.0", "editing_threshold": 0.5},
            "editing_threshold",
        ),
        (
            "llada2",
            {"policy": "low_confidence", "official_loop": "llada2.1", "minimal_topk": 2},
            "minimal_topk",
        ),
        (
            "llada2",
            {"policy": "low_confidence", "official_loop": "llada2.1", "temperature": 1.0},
            "temperature",
        ),
        (
            "llada2",
            {"policy": "low_confidence", "official_loop": "llada2.1", "suppress_mask": False},
            "would not end",
        ),
        ("sdar", {"policy": "low_confidence_static", "threshold": 0.5}, "threshold"),
        ("sdar", {"policy": "sequential", "official_loop": "llada2.0"}, "official_loop"),
        ("rnd1", {"temperature": 1.0}, "greedy_tokens"),
        ("dream", {"greedy_tokens": True, "temperature": 1.0}, "greedy_tokens"),
        ("rnd1", {"block_length": 4}, "block_length"),
        ("rnd1", {"max_new_tokens": 1}, "max_new_tokens"),
        ("lladamoe", {"policy": "low_confidence", "eb_gamma": 0.5}, "eb_gamma"),
        ("lladamoe", {"policy": "low_confidence", "block_length": 7}, "block_length 7"),
    ],
)
def test_options_of_another_function_are_refused(
    family: str, options: dict[str, Any], words: str, goldens: Callable[[str], Official]
) -> None:
    config = official_config(**{"max_new_tokens": 16, **options})
    with pytest.raises(ConfigError, match=words):
        Decoder(goldens(family).model, config)
