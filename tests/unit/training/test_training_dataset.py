import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core import keys
from tabom.core.errors import ConfigError, DataError
from tabom.models.ids import TokenIds
from tabom.training.config import TrainingConfig
from tabom.training.dataset import (
    ResponseDataset,
    ResponseExample,
    collate,
    examples_from_text,
    examples_from_trajectories,
    hint_ids,
)
from tabom.training.rows import Rows, from_trajectories, mapped
from tabom.trajectory.record import Trajectory
from tabom.trajectory.schema import to_arrow

EOS, MASK, PAD = 1, 9, 0


def trajectory(**changes: object) -> Trajectory:
    fields: dict[str, object] = {
        "id": "a",
        "prompt": "p",
        "prompt_ids": [3, 4],
        "response": "",
        "response_ids_N": [5, 6, EOS, EOS, MASK],
        "step_N": [2, 0, 1, 1, -1],
        "entropy_N": [0.1, 0.2, 0.4, 0.3, np.nan],
        "confidence_N": [0.5, 0.5, 0.5, 0.5, np.nan],
        "num_forwards": 3,
    }
    return Trajectory(**{**fields, **changes})  # type: ignore[arg-type]


def example(prompt: list[int], *, name: str = "e", num_slots: int = 3) -> ResponseExample:
    return ResponseExample(
        id=name,
        prompt_ids=np.array(prompt, dtype=np.int32),
        response_ids_N=np.arange(2, 2 + num_slots, dtype=np.int32),
        slot_N=np.ones(num_slots, dtype=bool),
        length=num_slots,
    )


def test_trajectory_by_hand() -> None:
    found = examples_from_trajectories([trajectory()], end_ids=[EOS])
    (e,) = found
    assert e.slot_N.tolist() == [True, True, True, True, False]
    assert e.length == 3  # up to and including the first end token
    # step 0: slot 1; step 1: slot 3 (entropy .3) before slot 2 (.4); step 2: slot 0
    assert e.order_N is not None
    assert e.order_N.tolist() == [3, 0, 2, 1, -1]
    assert found.dropped == {}


def test_trajectory_without_end_token_is_as_long_as_its_canvas() -> None:
    (e,) = examples_from_trajectories([trajectory()], end_ids=[8])
    assert e.length == 5


def test_trajectory_with_nothing_revealed_is_counted() -> None:
    nothing = trajectory(step_N=[-1] * 5, entropy_N=[np.nan] * 5, confidence_N=[np.nan] * 5, id="b")
    found = examples_from_trajectories([nothing, trajectory()], end_ids=[EOS])
    assert [e.id for e in found] == ["a"]
    assert found.dropped == {"no slot was revealed": 1}


class FakeModel:
    """Characters are tokens: a = 10, b = 11, ..."""

    ids = TokenIds(mask=MASK, pad=PAD, eos=(EOS, 2), filler=7, sources={}, answer_end=EOS)

    @staticmethod
    def encode_text(text: str) -> list[int]:
        return [ord(c) - 87 for c in text]

    @staticmethod
    def encode_prompt(prompt: str) -> list[int]:
        return [3, *(ord(c) - 87 for c in prompt)]


def test_text_gets_an_end_and_filler_and_what_does_not_fit_is_counted() -> None:
    rows = [("a", "bc"), ("a", "bcd"), ("a", "bcde"), ("b", "")]
    found = examples_from_text(rows, model=FakeModel(), max_new_tokens=4)  # type: ignore[arg-type]
    first, second = found
    assert first.response_ids_N.tolist() == [11, 12, EOS, 7]
    assert (first.length, first.order_N) == (3, None)
    assert second.response_ids_N.tolist() == [11, 12, 13, EOS]  # just fits
    assert first.slot_N.all()
    assert first.id != second.id
    assert found.dropped == {"answer longer than max_new_tokens 4": 1, "empty answer": 1}


def test_an_answer_that_the_tokenizer_refuses_is_named() -> None:
    class Refusing(FakeModel):
        name_or_path = "tiny"

        @staticmethod
        def encode_text(text: str) -> list[int]:
            raise Exception("Missing [UNK] token")  # as tokenizers do

    with pytest.raises(DataError, match=r"the answer 'b\\u20ac' .* of tiny .*Missing \[UNK\]"):
        examples_from_text([("a", "b€")], model=Refusing(), max_new_tokens=4)  # type: ignore[arg-type]


def test_collate_by_hand() -> None:
    batch = collate([example([3, 4, 5]), example([6], name="f")], pad_id=PAD, mask_id=MASK)
    assert batch.prompt_ids_BP.tolist() == [[3, 4, 5], [PAD, PAD, 6]]
    assert batch.prompt_mask_BP.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.key_B.tolist() == [keys.text_key("e"), keys.text_key("f")]
    assert batch.order_BN is None
    assert batch.entropy_BN is None
    (e,) = examples_from_trajectories([trajectory()], end_ids=[EOS])
    batch = collate([e], pad_id=PAD, mask_id=MASK)
    assert batch.order_BN is not None
    assert batch.order_BN.dtype == batch.response_ids_BN.dtype == torch.int64
    assert batch.slot_BN.dtype == torch.bool
    assert batch.entropy_BN is not None
    assert batch.entropy_BN[0, 4].isnan()


def test_dataset_refuses_what_cannot_be_one_batch() -> None:
    with pytest.raises(DataError, match=r"nothing to train on: .*3 empty answer"):
        ResponseDataset([], dropped={"empty answer": 3}).prepared(TrainingConfig())
    with pytest.raises(DataError, match=r"number of response slots: \[3, 4\]"):
        ResponseDataset([example([3]), example([3], num_slots=4)]).prepared(TrainingConfig())
    (ordered,) = examples_from_trajectories([trajectory()], end_ids=[EOS])
    with pytest.raises(DataError, match="presence of a decoding order"):
        ResponseDataset([example([3], num_slots=5), ordered]).prepared(TrainingConfig())


def test_fingerprint_sees_every_token_and_the_order() -> None:
    a, b = example([3, 4], name="a"), example([5], name="b")
    prints = {
        ResponseDataset(x, dropped={}).fingerprint
        for x in ([a, b], [b, a], [a], [a, example([6], name="b")])
    }
    assert len(prints) == 4
    again = ResponseDataset([example([3, 4], name="a"), b], dropped={})
    assert again.fingerprint == ResponseDataset([a, b], dropped={}).fingerprint


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.integers(0, 6), min_size=4, max_size=30),
    size=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_held_out_prompts_are_whole_and_do_not_depend_on_the_order(
    prompts: list[int], size: int, seed: int
) -> None:
    data = [example([p], name=str(i)) for i, p in enumerate(prompts)]
    config = TrainingConfig(eval_size=size, seed=seed)
    if len(set(prompts)) <= size:
        with pytest.raises(DataError, match="nothing is left to train on"):
            ResponseDataset(data).prepared(config)
        return
    train = ResponseDataset(data).prepared(config)
    held = train.held_out
    assert held is not None
    held_prompts = {int(e.prompt_ids[0]) for e in held}
    assert len(held_prompts) == size
    assert held_prompts.isdisjoint(int(e.prompt_ids[0]) for e in train)
    assert sorted(e.id for e in [*train, *held]) == sorted(e.id for e in data)
    again = ResponseDataset(data[::-1]).prepared(config).held_out
    assert again is not None
    assert {e.id for e in again} == {e.id for e in held}


class _Words:
    """Encodes a prompt as the lengths of its words."""

    def encode_prompt(self, prompt: str) -> list[int]:
        return [len(word) for word in prompt.split()]


def test_a_hint_is_the_prompt_with_the_answer_behind_it() -> None:
    template = "{prompt} is {answer}"

    def hint(template: str = template, **changes: object) -> list[int]:
        told = {"id": "a", "prompt": "one", "reference": "", "row": {}, **changes}
        return hint_ids(told, template=template, model=_Words()).tolist()  # type: ignore[arg-type, no-any-return]

    assert hint(row={"ground_truth": "seven"}, reference="no") == [3, 2, 5]
    assert hint(prompt="three", reference="four") == [5, 2, 4]
    with pytest.raises(DataError, match="'a' has no reference answer"):
        hint()
    with pytest.raises(ConfigError, match="answer"):
        hint("{prompt}", reference="four")
    data = [replace(example([3], name=n), hint_ids=np.array(h, np.int32), advantage=v)
            for n, h, v in (("a", [3, 2, 5], 1.0), ("b", [5], -0.5))]  # fmt: skip
    batch = collate(list(ResponseDataset(data)), pad_id=PAD, mask_id=MASK)
    assert batch.advantage_B is not None
    assert batch.hint_mask_BQ is not None
    assert batch.advantage_B.tolist() == [1.0, -0.5]
    assert batch.hint_mask_BQ.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_advantages_in_a_group_are_relative_to_its_mean() -> None:
    told = [("a", 1, 1.0), ("b", 1, -1.0), ("c", 1, -1.0), ("d", 1, -1.0), ("e", 2, 1.0)]
    told += [("f", 2, 1.0), ("g", 3, -1.0)]
    data = [replace(example([p], name=n), advantage=v) for n, p, v in told]
    found = ResponseDataset(data).in_groups()
    # The others have nothing to compare.
    assert {e.id: e.advantage for e in found} == {"a": 0.75, "b": -0.25, "c": -0.25, "d": -0.25}
    with pytest.raises(DataError, match="num_samples"):
        ResponseDataset(data[4:]).in_groups()


# ---- mapped rows ----


def batches(number: int, cut: int) -> list[pa.RecordBatch]:
    made = [
        trajectory(id=f"t{i}", prompt_ids=[3] * (1 + i % 4), step_N=[2, i % 3 - 1, 1, 1, -1])
        for i in range(number)
    ]
    return [
        from_trajectories(
            to_arrow(made[i : i + cut]), end_ids=[EOS], questions=[t.id for t in made[i : i + cut]]
        )
        for i in range(0, number, cut)
    ]


def same(left: ResponseDataset, right: ResponseDataset) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else a == b
        for x, y in zip(left, right, strict=True)
        for a, b in zip(vars(x).values(), vars(y).values(), strict=True)
    )


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_rows_are_equal_in_memory_and_mapped(tmp_path: Path, cut: int) -> None:
    """However they are cut into batches, and after examples were objects once."""
    rows = mapped(tmp_path / "rows", lambda: batches(11, cut))
    data, whole = ResponseDataset(rows), ResponseDataset(Rows(batches(11, 11)))
    assert same(data, whole)
    assert same(ResponseDataset(list(whole)), whole)
    again = ResponseDataset(mapped(tmp_path / "rows", list))
    assert data.fingerprint == again.fingerprint
    assert rows.num_revealed.tolist() == [3, 4, 4] * 3 + [3, 4]
    kept = data.chosen(rows.prompt_tokens < 3, "long")
    assert (kept.dropped, kept.num_tokens.tolist()) == ({"long": 5}, [6, 7, 6, 7, 6, 7])
    assert kept.fingerprint != data.fingerprint
    asked = [text for part in kept.questions() for text in part.to_pylist()]
    assert asked == [e.id for e in kept] == ["t0", "t1", "t4", "t5", "t8", "t9"]


def test_a_damaged_file_of_rows_is_made_again(tmp_path: Path) -> None:
    made = []

    def make() -> list[pa.RecordBatch]:
        made.append(1)
        return batches(5, 2)

    first = ResponseDataset(mapped(tmp_path / "rows", make))
    (file,) = tmp_path.glob("rows-*.arrow")
    content = file.read_bytes()
    assert same(ResponseDataset(mapped(tmp_path / "rows", make)), first)
    assert len(made) == 1
    rng = np.random.default_rng(0)
    for at in [*rng.integers(0, len(content), 40), len(content) - 3]:
        damaged = bytearray(content)
        damaged[at] ^= 8
        (tmp_path / "new").write_bytes(damaged)  # not written into, for it is mapped
        (tmp_path / "new").rename(file)
        assert same(ResponseDataset(mapped(tmp_path / "rows", make)), first)
    file.write_bytes(b"")
    assert same(ResponseDataset(mapped(tmp_path / "rows", make)), first)
    assert [p.name for p in tmp_path.glob("*.arrow")] == [file.name]


def test_of_several_processes_one_makes_the_rows(tmp_path: Path) -> None:
    made = tmp_path / "made"

    def work() -> None:
        def make() -> list[pa.RecordBatch]:
            with made.open("a") as file:
                file.write("x")
            time.sleep(0.3)
            return batches(5, 2)

        mapped(tmp_path / "rows", make)

    workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert made.read_text() == "x"
