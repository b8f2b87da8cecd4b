import numpy as np
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
    split_held_out,
)
from tabom.trajectory.record import Trajectory

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
            split_held_out(data, config)
        return
    train, held = split_held_out(data, config)
    held_prompts = {int(e.prompt_ids[0]) for e in held}
    assert len(held_prompts) == size
    assert held_prompts.isdisjoint(int(e.prompt_ids[0]) for e in train)
    assert sorted(e.id for e in [*train, *held]) == sorted(e.id for e in data)
    _, again = split_held_out(data[::-1], config)
    assert {e.id for e in again} == {e.id for e in held}


class _Words:
    """Encodes a prompt as the lengths of its words."""

    def encode_prompt(self, prompt: str) -> list[int]:
        return [len(word) for word in prompt.split()]


def test_a_hint_is_the_prompt_with_the_answer_behind_it() -> None:
    told = [
        trajectory(id="a", prompt="one", row={"ground_truth": "seven"}),
        trajectory(id="b", prompt="three", reference="four"),
        trajectory(id="c", prompt="not trained on"),
    ]
    data = examples_from_trajectories(told[:2], end_ids=[EOS], advantages={"a": 1.0, "b": -0.5})
    hinted = data.hinted(told, template="{prompt} is {answer}", model=_Words())  # type: ignore[arg-type]
    assert [e.hint_ids.tolist() for e in hinted.examples] == [[3, 2, 5], [5, 2, 4]]
    assert [e.advantage for e in hinted.examples] == [1.0, -0.5]
    batch = collate(hinted.examples, pad_id=PAD, mask_id=MASK)
    assert batch.advantage_B.tolist() == [1.0, -0.5]
    assert batch.hint_mask_BQ.tolist() == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(DataError, match="no reference answer"):
        examples_from_trajectories(told[2:], end_ids=[EOS]).hinted(
            told,
            template="{prompt}{answer}",
            model=_Words(),  # type: ignore[arg-type]
        )
    with pytest.raises(ConfigError, match="answer"):
        data.hinted(told, template="{prompt}", model=_Words())  # type: ignore[arg-type]
