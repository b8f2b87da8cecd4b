"""Collections: resumable, sharded, the same whoever did the work."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabom.collect.config import CollectionConfig
from tabom.collect.prompts import Prompt, PromptSource, load_prompts
from tabom.collect.worker import collect, make_requests
from tabom.core.chunks import Chunks
from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.models.config import ModelConfig
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.stages.collect import Collect
from tabom.trajectory.store import TrajectoryStore

DECODING = DecodingConfig(max_new_tokens=16, tokens_per_step=4)


@pytest.fixture(scope="module")
def model(random_toy: Path) -> MaskedDiffusionModel:
    return load_model(str(random_toy))


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    args = {"task": "general", "split": "train", "num": 20}
    source = PromptSource(function="tabom.toyworld.tasks:prompts", args=args)
    return load_prompts(source, seed=0)


def run(model: MaskedDiffusionModel, prompts: list[Prompt], folder: Path, **kwargs: Any) -> Any:
    """Collect as the stage does."""
    config = kwargs.pop("config", CollectionConfig(batch_size=4))
    decoder = Decoder(
        model,
        kwargs.pop("decoding", DECODING),
        batch_size=config.batch_size,
        fingerprint="f",
    )
    chunks = Chunks(folder, size=kwargs.pop("size", 4), share=kwargs.pop("share", (0, 1)))
    return collect(decoder, prompts, chunks, config=config, settings={}, **kwargs)


def content(folder: Path) -> dict[str, tuple[Any, ...]]:
    return {t.id: (t.response_ids_N.tolist(), t.step_N.tolist()) for t in TrajectoryStore(folder)}


def entropies(folder: Path) -> np.ndarray:
    found = sorted(TrajectoryStore(folder), key=lambda t: t.id)
    return np.stack([t.entropy_N for t in found])


def stop_at(number: int) -> Any:
    """A progress function that stops the work after so many responses."""

    def progress(done: int, total: int, note: str) -> None:
        if done >= number:
            raise DataError("stopped by the test")

    return progress


def test_one_process_and_two_ranks_collect_the_same(
    tmp_path: Path, model: MaskedDiffusionModel, prompts: list[Prompt]
) -> None:
    counts = run(model, prompts, tmp_path / "one")
    assert (counts["prompts"], counts["decoded"], counts["resumed"]) == (20, 20, 0)
    assert counts["forwards"] == 20 * 4
    # Rank 1 begins with the chunks 3 and 1 of 5, rank 0 takes what it left.
    with pytest.raises(DataError, match="stopped"):
        run(model, prompts, tmp_path / "two", share=(1, 2), progress=stop_at(8))
    assert not (tmp_path / "two" / "manifest.json").exists()
    assert sorted(p.stem for p in (tmp_path / "two" / "data").iterdir()) == ["chunk-00003"]
    counts = run(model, prompts, tmp_path / "two", share=(0, 2))
    assert (counts["decoded"], counts["resumed"]) == (12, 8)  # a batch was in the spool
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert [t.id for t in TrajectoryStore(tmp_path / "one")] == [
        t.id for t in TrajectoryStore(tmp_path / "two")
    ]
    np.testing.assert_allclose(entropies(tmp_path / "one"), entropies(tmp_path / "two"), atol=1e-5)


def test_a_worker_takes_over_what_nobody_works_on(
    tmp_path: Path, model: MaskedDiffusionModel, prompts: list[Prompt]
) -> None:
    counts = run(model, prompts, tmp_path, share=(3, 4))
    assert counts["decoded"] == 20
    assert "missing" not in counts
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "chunks.json", "data", "index.parquet", "manifest.json"
    ]  # fmt: skip


def test_records_carry_what_verifiers_need(
    tmp_path: Path, model: MaskedDiffusionModel, prompts: list[Prompt]
) -> None:
    run(model, prompts, tmp_path / "c")
    by_id = {p.id: p for p in prompts}
    for t in TrajectoryStore(tmp_path / "c"):
        prompt = by_id[t.row["prompt_id"]]
        assert t.prompt == prompt.text
        assert t.reference == prompt.reference
        assert t.row["ground_truth"] == prompt.ground_truth
        assert t.task == prompt.task
        assert t.num_revealed == 16
        assert sorted(t.order_N) == list(range(16))


def test_samples_differ_and_need_a_temperature(
    tmp_path: Path, model: MaskedDiffusionModel, prompts: list[Prompt]
) -> None:
    config = CollectionConfig(batch_size=4, num_samples=2)
    with pytest.raises(ConfigError, match=r"num_samples > 1 at decoding.temperature 0"):
        Collect(
            folder=tmp_path / "no",
            model=ModelConfig(model_name_or_path=model.name_or_path),
            prompts=PromptSource(function="tabom.toyworld.tasks:prompts"),
            collection=config,
        )
    warm = replace(DECODING, temperature=1.0)
    run(model, prompts[:3], tmp_path / "yes", config=config, decoding=warm)
    found = content(tmp_path / "yes")
    assert len(found) == 6
    assert len({str(v) for v in found.values()}) == 6


def test_too_long_prompts_are_counted(
    model: MaskedDiffusionModel, prompts: list[Prompt], tmp_path: Path
) -> None:
    lengths = sorted(len(model.encode_prompt(p.prompt)) for p in prompts)
    config = CollectionConfig(max_prompt_tokens=lengths[9])
    requests, num_too_long = make_requests(model, prompts, config)
    assert len(requests) + num_too_long == 20
    assert num_too_long == sum(n > lengths[9] for n in lengths)
    with pytest.raises(DataError, match="all 20 prompts are longer"):
        run(model, prompts, tmp_path, config=CollectionConfig(max_prompt_tokens=1))
    counts = run(model, prompts, tmp_path / "some", config=config)
    assert counts["too_long"] == num_too_long
    assert len(TrajectoryStore(tmp_path / "some")) == len(requests)


def test_a_collection_that_stops_at_the_text_trains_on_what_was_decoded(
    tmp_path: Path,
    model: MaskedDiffusionModel,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tabom.training.dataset import examples_from_trajectories

    ends = tuple(range(2, model.vocab_size, 3))  # or the random model never ends a text
    monkeypatch.setattr(model, "ids", replace(model.ids, eos=ends, filler=ends[0]))
    run(model, prompts, tmp_path / "full")
    counts = run(model, prompts, tmp_path / "text", decoding=replace(DECODING, stop="text"))
    full = {t.id: t for t in TrajectoryStore(tmp_path / "full")}
    text = list(TrajectoryStore(tmp_path / "text"))
    assert len(text) == 20
    for t in text:
        assert t.response == full[t.id].response
        seen_N = t.step_N >= 0
        assert t.row.get("is_truncated", False) == (not seen_N.all())
        assert t.response_ids_N[seen_N].tolist() == full[t.id].response_ids_N[seen_N].tolist()
        assert t.step_N[seen_N].tolist() == full[t.id].step_N[seen_N].tolist()
        assert "is_truncated" not in full[t.id].row
    num_truncated = sum(bool(t.row.get("is_truncated")) for t in text)
    assert counts["truncated"] == num_truncated > 0
    for name, number in (("full", 0), ("text", num_truncated)):
        manifest = TrajectoryStore(tmp_path / name).manifest
        assert manifest is not None
        assert manifest.counts["num_truncated"] == number
    examples = examples_from_trajectories(text, end_ids=model.ids.eos)
    for t, example in zip(text, examples, strict=True):
        assert example.slot_N.tolist() == (t.step_N >= 0).tolist()


def test_the_speed_is_on_the_bar_and_in_the_manifest(
    tmp_path: Path, model: MaskedDiffusionModel, prompts: list[Prompt]
) -> None:
    notes: list[str] = []
    counts = run(model, prompts, tmp_path, progress=lambda done, total, note: notes.append(note))
    manifest = TrajectoryStore(tmp_path).manifest
    assert manifest is not None
    assert counts["num_calls"] == 5 * 4  # batches of 4, 4 slots a call
    lengths = sorted(len(t.prompt_ids) for t in TrajectoryStore(tmp_path))
    batches = [lengths[i : i + 4] for i in range(0, 20, 4)]
    padded = sum(4 * (max(b) + 16) for b in batches)
    assert counts["num_tokens"] == 4 * padded
    assert counts["padding"] == round(1 - sum(n + 16 for n in lengths) / padded, 4)
    assert 0 < counts["trajectories_per_hour"] <= 3600 * 20 / counts["decode_seconds"] * 1.01
    assert counts["mfu"] >= 0
    for name in ("num_calls", "num_tokens", "padding", "mfu", "trajectories_per_hour"):
        assert name in manifest.counts
    assert notes[0] == ""
    assert "/h, MFU " in notes[-1]
    assert notes[-1].endswith(f"padding {counts['padding']:.1%}")


def test_layers_are_compiled_on_request(
    tmp_path: Path,
    model: MaskedDiffusionModel,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import tabom.models.compiled as compiled

    asked: list[MaskedDiffusionModel] = []
    monkeypatch.setattr(compiled, "compile_layers", asked.append)
    run(model, prompts[:2], tmp_path / "plain")
    assert asked == []
    run(model, prompts[:2], tmp_path / "fast", config=CollectionConfig(torch_compile=True))
    assert asked == [model]


def test_settings_that_do_not_go_with_the_model_leave_nothing(
    model: MaskedDiffusionModel, prompts: list[Prompt], tmp_path: Path
) -> None:
    decoding = DecodingConfig(max_new_tokens=4, schedule="official", policy="entropy")
    with pytest.raises(ConfigError, match="family toy has no published decoding function"):
        run(model, prompts, tmp_path / "store", decoding=decoding)
    assert not (tmp_path / "store").exists() or not any((tmp_path / "store").iterdir())
