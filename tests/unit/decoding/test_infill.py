"""Answers with gaps: what is given stays, what is missing is decoded."""

import json
import subprocess
import sys

import pytest

from tabom.core.errors import DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.decoding.infill import fixed_slots
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model


@pytest.fixture(scope="module")
def model() -> MaskedDiffusionModel:
    return load_model("toy-base", device="cpu")


def test_text_and_gaps_find_their_slots(model: MaskedDiffusionModel) -> None:
    end, filler = model.ids.end, model.ids.filler
    a, b, c = (model.encode_text(x)[0] for x in "abc")
    fixed, needed = fixed_slots(model, "a<mask:2>b<mask:1>c", max_new_tokens=9)
    assert fixed == {0: a, 3: b, 5: c, 6: end, 7: filler, 8: filler}
    assert needed == 7
    assert fixed_slots(model, "ab<mask>", max_new_tokens=9) == ({0: a, 1: b}, 9)
    assert fixed_slots(model, "<mask:3>", max_new_tokens=4) == ({3: end}, 4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("abc", "no gap"),
        ("a<mask>b", "at the end alone"),
        ("<mask><mask:2>", "at the end alone"),
        ("<mask:0>", "no gap"),
        ("a<mask:99>", "needs 101 slots"),
        ("abcdefghi<mask>", "needs 10 slots"),
    ],
)
def test_an_answer_that_cannot_be(model: MaskedDiffusionModel, answer: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fixed_slots(model, answer, max_new_tokens=9)


def test_a_path_is_filled_in(model: MaskedDiffusionModel) -> None:
    """The toy's own answer with its middle missing comes back whole."""
    prompt = "AbBcCdDeEfFgGhHiIjJa:b3"  # each letter points to the next: c, d, e
    fixed, _ = fixed_slots(model, "e=c<mask:1>e", max_new_tokens=16)
    request = DecodeRequest(id="x", prompt_ids=model.encode_prompt(prompt), fixed=fixed)
    (done,) = Decoder(model, DecodingConfig(max_new_tokens=16)).in_order([request])
    assert done.trajectory.response == "e=cde"
    assert (done.trajectory.step_N >= 0).sum() == 1
    assert done.trajectory.num_forwards == 1


@pytest.mark.slow
def test_the_command_fills_in() -> None:
    words = [
        "generate",
        "toy-base",
        "--prompt",
        "AbBcCdDeEfFgGhHiIjJa:b3",
        "--max_new_tokens",
        "16",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "tabom", *words, "--infill", "e=c<mask:1>e", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    row = json.loads(run.stdout)
    assert row["response"] == "e=cde"
    assert row["num_forwards"] == 1
    bad = subprocess.run(
        [sys.executable, "-m", "tabom", *words, "--infill", "abc"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert bad.returncode == 2
    assert "<mask:8>" in bad.stderr
    assert "Traceback" not in bad.stderr
