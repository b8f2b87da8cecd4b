"""Our official schedule against what the published functions did, case by case.

Every folder of the golden set with a `golden_decoding.json` is a family; every entry is a test.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from golden_set import IS_OTHER, folders
from official import Official, config_of

CASES = [
    pytest.param(folder, index, id=f"{folder.name}-decoding-{index}")
    for folder in folders("golden_decoding.json")
    for index in range(len(json.loads((folder / "golden_decoding.json").read_text())))
]


@cache
def official_of(folder: Path) -> Official:
    return Official(folder)


@pytest.mark.parametrize("folder, index", CASES)
def test_tokens_steps_and_calls(folder: Path, index: int) -> None:
    golden = official_of(folder)
    case = golden.cases[index]
    done = golden.trajectories(case, config_of(golden.model.family.official_decoding, case))
    assert [t.response_ids_N.tolist() for t in done] == case["response_ids"], case["options"]
    assert [t.step_N.tolist() for t in done] == case["decode_step"], case["options"]
    num_masked = sum(t.response_ids_N.tolist().count(golden.model.ids.mask) for t in done)
    assert num_masked == case["left_masked"]
    if "num_forwards" in case:
        assert [t.num_forwards for t in done] == [case["num_forwards"]] * len(done)
    for t in done:
        edits = [e for e in case.get("edits", []) if e[0] < t.num_slots]
        assert t.edits.tolist() == edits
    if "returned_ids" in case:
        check_returned(golden, case, done[0].response_ids_N.tolist())


def check_returned(golden: Official, case: dict[str, Any], response: list[int]) -> None:
    """What the function gave back is the response up to its first end token.

    LLaDA2.0's early stop gives the prompt back with it.
    """
    returned, eos = case["returned_ids"], golden.model.ids.filler
    returned = returned[0] if isinstance(returned[0], list) else returned
    ours = response[: response.index(eos) + 1] if eos in response else response
    assert returned in (ours, [*case["prompt_ids"][0], *ours])


def test_every_family_of_the_repository_is_here() -> None:
    if IS_OTHER:
        pytest.skip("another set was asked for")
    assert {f.name for f in folders("golden_decoding.json")} == {
        "dream-tiny", "llada-tiny", "llada2-tiny", "lladamoe-tiny", "rnd1-tiny", "sdar-tiny",
    }  # fmt: skip
